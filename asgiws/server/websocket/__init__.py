"""One WebSocket connection: the transport's side, the application's, and how it ends."""
