"""Turns usage into priced lines that explain themselves."""
