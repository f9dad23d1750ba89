"""One process, one event loop: listeners, connections, lifespan, and the server that owns them."""
