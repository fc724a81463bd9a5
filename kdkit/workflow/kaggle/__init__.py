"""Kaggle: kernels rendered from kaggle_kernel.json, pushed, watched and fetched."""
