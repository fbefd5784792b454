"""Client for Tollkeeper: ask the gate, report usage."""
