"""The gate inside gateways that other people wrote; each module imports its gateway by itself."""
