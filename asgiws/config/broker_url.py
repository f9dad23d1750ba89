"""URLs of brokers: which are allowed, and what of them may be shown."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

__all__ = ["BROKER_SCHEMES", "check_broker_url", "is_broker_url", "redact_broker_url"]

BROKER_SCHEMES: Final = {
    "redis": "redis", "rediss": "redis", "unix": "redis", "redis+unix": "redis", "redis+cluster": "redis",
    "rediss+cluster": "redis", "nats": "nats", "tls": "nats",
}  # fmt: skip
"""The package that each needs, which is also the extra of this package."""

_ALLOWED: Final = (
    "redis://[user:password@]host[:port][/database], rediss:// with TLS, redis+unix:///path, redis+cluster://, "
    "nats://[user:password@]host[:port] or tls:// for NATS with TLS"
)


def is_broker_url(text: str) -> bool:
    """Return whether an address is a broker's and not that of an admin address, which may be `unix:///path`."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme in BROKER_SCHEMES and scheme != "unix"


def check_broker_url(text: str) -> str | None:
    """Return what is allowed instead of a URL, or None."""
    try:
        parts = urlsplit(text)
        several = BROKER_SCHEMES.get(parts.scheme) == "nats"  # of which all servers of a cluster may be named
        hosts = parts.netloc.rpartition("@")[2].split("," if several else None)
        ports = [urlsplit(f"//{host}").port for host in hosts]
    except ValueError:
        return _ALLOWED
    if parts.scheme not in BROKER_SCHEMES or not re.fullmatch("[!-~]+", text) or 0 in ports:
        return _ALLOWED
    named = parts.path if parts.scheme.endswith("unix") else parts.hostname
    return None if named else _ALLOWED


def redact_broker_url(text: str) -> str:
    """Return a URL without what may be secret: user, password and query."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in BROKER_SCHEMES:
        return "***"
    rest = rest.partition("?")[0].partition("#")[0]
    return f"{scheme}://{rest.rpartition('@')[2]}"
