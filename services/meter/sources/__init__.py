"""What others send in formats of their own, turned into usage events: one file for each format."""
