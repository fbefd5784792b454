"""Events, meters and rollups in PostgreSQL, as values of the domain.

Refuses to decide: what an event adds to, and what a difference means, is the core's.
"""
