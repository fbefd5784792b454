"""One module for each family of tax law; each rules on one supply, before any amount."""
