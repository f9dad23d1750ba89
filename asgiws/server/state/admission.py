"""Who is served: limits of connections in total and by address, of handshakes, tenants and openings, and overload.

Everything that is refused because there is too much of it is decided here. What the client receives is encoded by
`asgiws.server.websocket.handshake_response`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from asgiws.config.options import Config
from asgiws.protocol import errors
from asgiws.protocol.errors import Violation
from asgiws.protocol.printable import escape
from asgiws.server.state.openings import Openings
from asgiws.telemetry.access_log import ClientAddress

__all__ = ["REFUSED_MOST", "Admission"]

REFUSED_MOST: Final = 256
"""Refused connections that are still being answered; above this number they are aborted without an answer."""
_SHOWN_MOST: Final = 80
"""Bytes of a tenant's name in an error."""


class Admission:
    """Counts connections and handshakes, and rejects those above a limit."""

    __slots__ = (
        "_config", "_tenant_most", "addresses", "admitted", "handshakes", "openings", "overload", "tenant_field",
        "tenants",
    )  # fmt: skip

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self._config = config
        self.admitted = 0
        """Open connections that count towards the limits: all that were not rejected."""
        self.addresses: Counter[str] = Counter()
        """Open connections by client address; kept only when an option asks for it."""
        self.handshakes: Counter[str] = Counter()
        """Handshakes of this second by client address; kept only when an option asks for it."""
        self.tenant_field, self._tenant_most = config.limit_by()
        self.tenants: Counter[bytes] = Counter()
        """WebSockets by tenant, from their handshake on; kept only when an option asks for it."""
        self.openings = Openings(loop, config.max_opening, config.handshake_timeout)
        self.overload: Violation | None = None
        """Why nothing new is served; written by `asgiws.server.overload`."""

    def admit(self, client: ClientAddress) -> Violation | None:
        """Count a connection; return the violation, and do not count it, when there are too many already."""
        config = self._config
        if config.max_connections and self.admitted >= config.max_connections:
            return Violation(errors.TOO_MANY_CONNECTIONS, f"{self.admitted} connections, the limit")
        most = config.max_connections_per_address
        if most and client is not None:
            if self.addresses[client[0]] >= most:
                return Violation(errors.TOO_MANY_FROM_ADDRESS, f"{most} connections from this address, the limit")
            self.addresses[client[0]] += 1
        self.admitted += 1
        return None

    def release(self, client: ClientAddress, tenant: bytes = b"") -> None:
        """Stop counting a connection that was admitted; `tenant` is that of its handshake, if it was admitted too."""
        self.admitted -= 1
        if self._config.max_connections_per_address and client is not None:
            self.addresses[client[0]] -= 1
            if not self.addresses[client[0]]:
                del self.addresses[client[0]]
        if tenant:
            self.tenants[tenant] -= 1
            if not self.tenants[tenant]:
                del self.tenants[tenant]

    def admit_handshake(self, client: ClientAddress, tenant: bytes) -> Violation | None:
        """Count a handshake; return the violation when it is one too many.

        `tenant` is empty unless an option asks for it and a trusted proxy has named one.
        """
        if self.overload is not None:
            return self.overload
        rate = self._config.handshake_rate
        if rate and client is not None:
            if self.handshakes[client[0]] >= rate:
                return Violation(errors.TOO_MANY_HANDSHAKES, f"over {rate} handshakes in a second, the limit")
            self.handshakes[client[0]] += 1
        if tenant:
            if self.tenants[tenant] >= self._tenant_most:
                name = f"{self.tenant_field.decode()}: {escape(tenant)[:_SHOWN_MOST]}"
                return Violation(errors.TOO_MANY_OF_TENANT, f"{self._tenant_most} WebSockets of {name}, the limit")
            self.tenants[tenant] += 1
        return None

    def admit_request(self, path: str) -> Violation | None:
        """Return the violation when an HTTP request is not served because of overload."""
        config = self._config
        return self.overload if config.shed_requests and path != config.health_path else None

    def second_passed(self) -> None:
        """Start the next second of the handshake rate."""
        self.handshakes.clear()
        if self.openings.most:
            self.openings.second_passed()
