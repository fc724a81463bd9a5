"""The teacher's own answers, the best of several."""
