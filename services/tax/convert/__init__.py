"""Between the wire and the domain: parsing is validation, and names every bad field at once.

What is parsed cannot be wrong. It sets the defaults that the contract names, and no other.
"""
