"""Reads what callers send into values of the domain, and writes those back; nothing else.

Every field that is wrong is named. Refuses to guess: what is absent and required is an error.
"""
