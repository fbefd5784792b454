"""Real PostgreSQL and Redis on loopback, for one machine without servers of its own."""
