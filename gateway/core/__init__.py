"""Decisions: pure functions of a snapshot, a time and a random source. No async, I/O or clock."""
