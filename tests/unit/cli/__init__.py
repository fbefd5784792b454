"""Tests of the command that need no server."""
