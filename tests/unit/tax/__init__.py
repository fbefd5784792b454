"""The core of tax: no I/O beyond the tables that come with the code."""
