"""Reports of searches: what was tried, what was best, what mattered."""
