"""The wire: HTTP/1.1, WebSocket and permessage-deflate as values, without any input or output of its own."""
