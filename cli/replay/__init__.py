"""Replay of a recorded trace: read it, map it to customers, send it, and ask the meter."""
