"""Solved problems on pages: tables, a picture, and solutions with a mark at every step."""
