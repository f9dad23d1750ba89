"""Where a NATS server is: `nats://`, or `tls://` for one that must encrypt.

    nats://user:password@host:4222
    nats://token@host:4222
    tls://user:password@one:4222,two:4222?ssl_ca_certs=/etc/ca.pem

Several servers are those of one cluster. With `tls://` no password is sent to a server that does not encrypt.
Certificates are checked with the authorities of the system or with those of `ssl_ca_certs`; `ssl_certfile` and
`ssl_keyfile` are a certificate for asgiws.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

__all__ = ["NatsURL", "parse_url"]

_SCHEMES: Final = ("nats", "tls")
_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_PORT: Final = 4222


@dataclass(frozen=True, slots=True)
class NatsURL:
    """What a URL says. It has a password, so it is not for logs."""

    servers: tuple[str, ...]
    """URLs without user and password."""
    encrypted: bool
    """Whether a server that does not encrypt is refused."""
    user: str
    password: str
    """Without a user, the token."""
    files: dict[str, str]

    def tls_context(self) -> ssl.SSLContext | None:
        """Return how to encrypt; None for the defaults of nats-py. Raises OSError for files that cannot be used."""
        if not self.files:
            return None
        context = ssl.create_default_context(cafile=self.files.get("ssl_ca_certs"))
        if "ssl_certfile" in self.files:
            context.load_cert_chain(self.files["ssl_certfile"], self.files.get("ssl_keyfile"))
        return context


def parse_url(url: str, password: str = "") -> NatsURL:
    """Parse a URL; `password` replaces the one in it. Raises ValueError, whose message has nothing of the URL."""
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or parts.path not in ("", "/"):
        raise ValueError("nats://user:password@host:4222 or tls://...")
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, colon, known = credentials.partition(":")
    if not (colon or password):
        user, known = "", user  # a token
    files = dict(parse_qsl(parts.query, keep_blank_values=True))
    if not all(files.values()) or not files.keys() <= set(_FILES):
        raise ValueError(f"the parameters {', '.join(_FILES)}, each with the name of a file")
    servers = tuple(f"nats://{_checked_host(host)}" for host in hosts.split(","))
    return NatsURL(servers, parts.scheme == "tls", unquote(user), password or unquote(known), files)


def _checked_host(text: str) -> str:
    """Return `host:port`. Raises ValueError."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port or _PORT
    except ValueError:
        host = None
    if not host:
        raise ValueError("host:port, or several with commas in between")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
