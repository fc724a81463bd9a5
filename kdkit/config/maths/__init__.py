"""Settings of maths: problems, checker, judging."""
