"""What runs in the container: supervisor, shim, journal, attach. Standard library and ``core.protocol`` only."""
