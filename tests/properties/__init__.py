"""Laws, tried with generated input."""
