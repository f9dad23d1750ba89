"""One HTTP connection, and each of its requests."""
