"""Envoy's rate limit service on Tollkeeper's Redis: its messages, its YAML files, its rules."""
