"""The commands of `tollkeeper`, one module each; `cli.main` mounts them."""
