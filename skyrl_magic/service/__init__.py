"""The use cases: sessions, runs, the checkout's sync, logs, settings. Sees only ``core``."""
