"""Promises about rating."""
