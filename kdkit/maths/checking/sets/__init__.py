"""Sets of numbers that have more members than can be listed."""
