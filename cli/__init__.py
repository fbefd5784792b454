"""The `tollkeeper` command and the supervisor that runs everything on one machine."""
