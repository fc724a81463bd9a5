"""Verbs for embedding models alone: ask an endpoint, score by mteb, export to ONNX."""
