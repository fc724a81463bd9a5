"""Figures of a sweep: variants compared in pairs, effects of settings, the best at their cost."""
