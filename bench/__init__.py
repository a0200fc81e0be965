"""``make bench``: what the magics cost, side by side with what users have otherwise; written to ``RESULTS.md``."""
