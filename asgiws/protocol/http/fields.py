"""Header fields (RFC 9110 §5): names, the bytes allowed in values, and values that are lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["LOWER_NAMES", "TEXT_BYTES", "TOKEN_BYTES", "Header", "header_tokens", "is_token", "printable"]

Header = tuple[bytes, bytes]
"""Name in lower case, value without surrounding white space."""

TOKEN_BYTES: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
# RFC 9110 §5.5: field-vchar, obs-text, space and tab
TEXT_BYTES: Final = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])

_USUAL_NAMES: Final = (
    "Accept Accept-Charset Accept-Encoding Accept-Language Authorization Cache-Control Connection Content-Length "
    "Content-Type Cookie DNT Expect Forwarded Host If-Match If-Modified-Since If-None-Match Keep-Alive Origin Pragma "
    "Priority Range Referer Sec-CH-UA Sec-CH-UA-Mobile Sec-CH-UA-Platform Sec-Fetch-Dest Sec-Fetch-Mode Sec-Fetch-Site "
    "Sec-Fetch-User Sec-GPC Sec-WebSocket-Extensions Sec-WebSocket-Key Sec-WebSocket-Protocol Sec-WebSocket-Version TE "
    "Traceparent Trailer Transfer-Encoding Upgrade Upgrade-Insecure-Requests User-Agent Via X-Forwarded-For "
    "X-Forwarded-Host X-Forwarded-Port X-Forwarded-Proto X-Real-IP X-Request-ID X-Requested-With "
    # of responses
    "Accept-Ranges Access-Control-Allow-Credentials Access-Control-Allow-Headers Access-Control-Allow-Methods "
    "Access-Control-Allow-Origin Allow Content-Disposition Content-Encoding Content-Language Content-Range "
    "Content-Security-Policy Date ETag Expires Last-Modified Link Location Referrer-Policy Retry-After Server "
    "Set-Cookie Strict-Transport-Security Vary WWW-Authenticate X-Content-Type-Options X-Frame-Options"
)
LOWER_NAMES: Final[Mapping[bytes, bytes]] = {
    spelling: name.lower().encode()
    for name in _USUAL_NAMES.split()
    for spelling in (name.encode(), name.lower().encode(), name.title().encode())
}
"""Names that need no check, as they are usually spelled, to their lower case."""


def header_tokens(values: list[bytes] | tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Split comma-separated values into lower-case elements, empty ones left out (RFC 9110 §5.6.1)."""
    if len(values) == 1 and b"," not in values[0]:
        return (item,) if (item := values[0].strip(b" \t").lower()) else ()
    return tuple(item for value in values for part in value.lower().split(b",") if (item := part.strip(b" \t")))


def is_token(value: bytes) -> bool:
    """Return whether `value` is a token (RFC 9110 §5.6.2)."""
    return bool(value) and not value.translate(None, TOKEN_BYTES)


def printable(value: bytes, most: int = 40) -> str:
    """Return bytes of a peer in a form that is safe in logs, responses and close reasons: short, escaped ASCII."""
    text = ascii(value[:most].decode("latin-1"))[1:-1]
    return f"{text}..." if len(value) > most else text
