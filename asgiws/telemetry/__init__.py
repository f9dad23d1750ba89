"""Counters and logs: what the server tells its operator."""
