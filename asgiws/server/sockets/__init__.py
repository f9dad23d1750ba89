"""Listening sockets, and what accepts on them."""
