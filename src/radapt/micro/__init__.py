"""The micro models: how they are built and trained; their weights lie beside this file."""
