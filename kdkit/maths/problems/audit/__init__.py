"""A second way to every answer: the text of statement and answer is read anew and compared in numbers."""
