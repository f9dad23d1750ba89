"""Several processes: the supervisor, its workers, and the reloader."""
