"""Several teachers at once: who teaches what, and the loss that adds their lessons up."""
