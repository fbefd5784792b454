"""Promises about the contract and about the house itself."""
