"""Students made from their teacher: what matters in it on text, and smaller models of these parts."""
