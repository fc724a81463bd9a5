"""Linear algebra: determinants, inverses, eigenvalues, ranks, products."""
