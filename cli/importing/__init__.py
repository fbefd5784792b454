"""Import of usage from files of others: read rows, map columns, check all, send, resume."""
