"""Every promise of the suite, as a test."""
