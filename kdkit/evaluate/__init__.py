"""Room 04: language quality, retention and compression."""
