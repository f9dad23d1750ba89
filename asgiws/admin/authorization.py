"""Who may do what at the admin address.

    health, metrics, the page       any client that can connect: the address is not public, and these name no client
    status, live view, finding      a client with the token; if there is none, a local client
    closing, draining, publishing   a client with the token, or one on the Unix socket

A client is local if it uses the Unix socket, or, if there is no token, a loopback address. Browsers are local too, and
show pages of strangers. So a request without the token must not come from a page of another origin (Origin), nor use a
name that a stranger points at this machine (Host, DNS rebinding).
"""

from __future__ import annotations

import hmac
import ipaddress
from typing import Final
from urllib.parse import urlsplit

from asgiws.server.asgi import Scope

__all__ = ["Authorization"]

_BEARER: Final = "bearer "


class Authorization:
    """The rules, for a token and the name in the address."""

    def __init__(self, token: str, bound_name: str) -> None:
        self.token = token
        """Empty if there is none. A rolling restart may change it."""
        self._bound_name = bound_name.lower()

    def is_token(self, text: str) -> bool:
        """Compare with the token in constant time."""
        return bool(self.token) and hmac.compare_digest(text.encode(), self.token.encode())

    def presents_wrong_token(self, scope: Scope) -> bool:
        """Return whether the request has a token, and a wrong one."""
        presented = _header(scope, b"authorization")
        return presented is not None and not self._is_bearer(presented)

    def may_see(self, scope: Scope) -> bool:
        """Return whether the request may see clients, paths and the live view."""
        return self._is_trusted(scope) or (
            (_is_unix(scope) or (not self.token and _is_loopback(scope))) and self._is_own_page(scope)
        )

    def may_close(self, scope: Scope) -> bool:
        """Return whether the request may close connections, drain workers and publish to topics."""
        return self._is_trusted(scope) or (_is_unix(scope) and self._is_own_page(scope))

    def _is_trusted(self, scope: Scope) -> bool:
        presented = _header(scope, b"authorization")
        return presented is not None and self._is_bearer(presented)

    def _is_bearer(self, presented: str) -> bool:
        # RFC 9110 §11.1: the scheme is case-insensitive
        scheme, token = presented[: len(_BEARER)], presented[len(_BEARER) :].strip()
        return scheme.lower() == _BEARER and self.is_token(token)

    def _is_own_page(self, scope: Scope) -> bool:
        """Return whether the request cannot come from a stranger's page in a browser."""
        host = (_header(scope, b"host") or "").lower()
        origin = _header(scope, b"origin")
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if origin is not None and urlsplit(origin.lower()).netloc != host:
                return False
        except ValueError:
            return False
        known = name in ("localhost", self._bound_name) or name.endswith(".localhost") or _is_address(name)
        return bool(name) and known


def _header(scope: Scope, name: bytes) -> str | None:
    values = [value for key, value in scope["headers"] if key == name]
    return values[0].decode("latin-1") if len(values) == 1 else None if not values else ""


def _is_unix(scope: Scope) -> bool:
    return scope["server"] is not None and scope["server"][1] is None


def _is_loopback(scope: Scope) -> bool:
    host = scope["server"][0] if scope["server"] is not None else ""
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
