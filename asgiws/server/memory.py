"""The most memory that one connection can take, as a sum of terms that follow from the options.

The README of this folder explains each term, and `tests/limits/test_floods.py` drives a server to each of them.
"""

from __future__ import annotations

from typing import Final

from asgiws.config.options import Config
from asgiws.protocol.limits import KIB
from asgiws.protocol.websocket.utf8 import DECODED_MOST_BYTES
from asgiws.server.websocket.waiting import EARLY_MOST_BYTES

__all__ = [
    "CONNECTION_BYTES", "READ_BYTES", "TLS_BYTES", "Terms", "http_terms", "topic_terms", "waiting_terms",
    "websocket_terms",
]  # fmt: skip

Terms = dict[str, int]
"""Bytes by purpose."""

CONNECTION_BYTES: Final = 13 * KIB // 2
"""An idle connection with its transport and its application's task, without what the application itself keeps."""
READ_BYTES: Final = 256 * KIB
"""The most that an event loop reads at once: asyncio up to 256 KiB, uvloop 64."""
TLS_BYTES: Final = 128 * KIB
"""OpenSSL's state, 8 KiB while little is sent, and buffers that keep the size that one large message gave them."""
_CORK_BYTES: Final = 64 * KIB
_ITEM_BYTES: Final = 100
_CHARACTER_BYTES: Final = 4
_FIELD_BYTES: Final = 256


def websocket_terms(config: Config) -> Terms:
    """Return the terms for an open WebSocket, without the message that the application is sending."""
    message = config.max_message_size
    dedicated = 0
    if config.compression == "dedicated":
        # deflate state by zlib.h with its windows; inflate state with its window: zlib 39 KiB, zlib-ng 41
        settings = config.deflate_settings()
        dedicated = (4 << settings.window_bits) + (512 << settings.memory_level) + 48 * KIB
    return {
        "connection": CONNECTION_BYTES,
        "compression": dedicated,
        "tls": _tls(config),
        # The read that filled the inbox, the one that had begun, and both while they are joined
        "unparsed": 4 * READ_BYTES,
        # A bytearray grows by an eighth; a text that is decoded as it arrives, by a quarter
        "message in progress": max(message * 9 // 8, min(message, DECODED_MOST_BYTES) * _CHARACTER_BYTES * 5 // 4),
        # Parsing stops when the inbox is full, and the message that filled it may have any size allowed.
        # Python keeps a text in up to 4 bytes a character.
        "inbox": (config.max_queue_bytes + message) * _CHARACTER_BYTES + config.max_queue * _ITEM_BYTES,
        "unsent": config.write_high_water + _CORK_BYTES,
    }


def topic_terms(config: Config) -> Terms:
    """Return the further terms of a WebSocket that subscribes to topics."""
    return {"published": config.topic_backlog + config.max_publish_size}


def waiting_terms(config: Config) -> Terms:
    """Return the terms for a handshake that waits for a place with the application (`--max-opening`)."""
    return {
        "connection": CONNECTION_BYTES,
        "tls": _tls(config),
        # Its fields, or its path as it came and decoded, and the objects that hold the fields
        "head": 2 * config.max_head_size + _FIELD_BYTES * config.max_headers,
        "early": EARLY_MOST_BYTES + 2 * READ_BYTES,
    }


def http_terms(config: Config) -> Terms:
    """Return the terms for an HTTP connection, without the body piece that the application is sending."""
    return {
        "connection": CONNECTION_BYTES,
        "tls": _tls(config),
        # A head, or the head of the next request while one is open, and the read that overran it
        "head": config.max_head_size + 2 * READ_BYTES,
        "body": config.limits().body_buffer_bytes + 2 * READ_BYTES,
        "unsent": config.write_high_water,
    }


def _tls(config: Config) -> int:
    # A read decrypted record by record, and these while they are joined
    return TLS_BYTES + 2 * READ_BYTES if config.ssl_certfile else 0
