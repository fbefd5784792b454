"""Unit tests of kit: no server, no clock, no event loop where none is under test."""
