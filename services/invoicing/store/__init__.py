"""Parties and invoices in PostgreSQL, as values of the domain.

Statements only: the caller holds the transaction. Refuses to decide what may be done.
"""
