"""What else is measured of a run's models: how sure they are, where in a text, how varied, and by the harness."""
