"""HTTP/1.1 without I/O: heads, bodies, responses, and what proxies add."""
