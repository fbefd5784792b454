"""Golden cases of tax."""
