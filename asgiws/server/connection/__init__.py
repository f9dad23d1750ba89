"""What HTTP and WebSocket connections share: flow control, the end of a TCP connection, and what precedes HTTP."""
