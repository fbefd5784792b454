"""The gate on the wire: calls, answers and limits. It refuses what cannot be right, all at once."""
