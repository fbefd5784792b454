"""Keeps every usage event exactly once and answers how much was used."""
