"""Cases whose figures a person can check by hand."""
