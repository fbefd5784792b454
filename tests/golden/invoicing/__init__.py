"""Invoices assembled from rated lines, as they stand on the page."""
