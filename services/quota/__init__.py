"""Decides in one atomic step whether a call may pass, and holds what it may use."""
