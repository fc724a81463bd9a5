"""Routing a teacher's experts for the student."""
