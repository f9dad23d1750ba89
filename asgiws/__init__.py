"""asgiws, the ASGI server for WebSocket applications."""
