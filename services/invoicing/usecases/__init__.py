"""What invoicing does, one method for each use case, and one transaction in each.

Closing is the exception: one transaction for each invoice. Refuses to compute money and dates:
that is the core's.
"""
