"""Brokers: the bus between machines."""
