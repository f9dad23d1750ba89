"""The limits that bound what one peer can cost, as one frozen object.

Made once by the configuration and passed into the parsers and the inflater, which check before they buffer. Zero
turns a limit off where the field says so. Each field has its reason beside it; the options that set them have the
units (`asgiws.config.options`).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]

KIB = 1024
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, counts in whole numbers."""

    # ---- HTTP/1.1
    request_line_bytes: int = 8 * KIB
    """RFC 9112 §3 recommends that at least 8,000 be supported; nginx and Apache allow 8 KiB."""
    head_bytes: int = 64 * KIB
    """Large enough for cookies and tokens behind several proxies; uvicorn with h11 has the same figure."""
    header_count: int = 128
    """A browser sends 15 to 25 fields; Apache allows 100."""
    body_bytes: int = 0
    """0: no limit; applications stream bodies and know what they expect."""
    body_buffer_bytes: int = 64 * KIB
    """Body bytes held for the application before reading stops."""

    # ---- WebSocket
    message_bytes: int = 16 * MIB
    """After inflating. The figure of uvicorn, hypercorn and gunicorn."""
    frame_bytes: int = 0
    """0: a frame may be as large as a message."""
    fragment_count: int = 128 * KIB
    """4 MiB in fragments of 64 bytes are 65,536; the Node package ws has the same figure."""
    empty_fragment_count: int = 1024
    """An empty fragment carries nothing; some clients end a stream with one."""
    inbox_messages: int = 32
    """Messages parsed ahead of the application; the figure of uvicorn and gunicorn."""
    inbox_bytes: int = 1 * MIB
    """Parsing stops once the messages waiting hold this many."""
    inflate_ratio: int = 0
    """0: no limit. Browsers reach DEFLATE's own bound of 1,032 with a blank canvas; `message_bytes` bounds a bomb."""
    control_rate: int = 1000
    """Control frames in a second. Browsers send none by themselves. 0: no limit."""
    message_rate: int = 0
    byte_rate: int = 0
