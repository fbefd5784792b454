"""What the meter does, each in one transaction: take events in, put meters, answer for usage.

It refuses to compute: what an event adds to is the core's.
"""
