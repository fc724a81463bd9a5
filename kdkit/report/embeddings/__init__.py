"""Reports of embedding runs."""
