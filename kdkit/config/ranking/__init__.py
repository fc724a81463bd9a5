"""Settings of students that are made to rank documents."""
