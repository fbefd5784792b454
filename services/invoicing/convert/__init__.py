"""Between the wire and the domain: parsing is validation, and names every bad field at once.

What is parsed cannot be wrong. Refuses to decide anything that the contract does not say.
"""
