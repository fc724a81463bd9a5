"""Reports of sweeps and searches: words, tables, pictures, pages."""
