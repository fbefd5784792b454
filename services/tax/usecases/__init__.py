"""What the tax service does: loads what the core needs, asks it, and stores what is to be kept.

Each use case is one transaction. It refuses to compute anything itself.
"""
