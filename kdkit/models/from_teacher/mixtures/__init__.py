"""Students made of a mixture of experts: what its experts do, and smaller or dense models of the best of them."""
