"""Room 02: loading or building the teacher, and probing what it knows."""
