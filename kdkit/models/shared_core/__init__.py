"""Models whose experts or layers share a core and have small wrappers of their own."""
