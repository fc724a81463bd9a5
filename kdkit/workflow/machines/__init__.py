"""Work in several processes and on several machines: trainings, and the teacher's answers."""
