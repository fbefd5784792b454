"""Tests of the core of invoicing."""
