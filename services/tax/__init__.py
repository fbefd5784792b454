"""Determines which tax a line bears and converts money at published rates."""
