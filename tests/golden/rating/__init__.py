"""Periods rated by a plan, without any server."""
