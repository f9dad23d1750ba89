"""Limits of connections and of handshakes: in total, and by client address."""

from __future__ import annotations

from collections import Counter

from asgiws.config.options import Config
from asgiws.protocol import errors
from asgiws.protocol.errors import Violation
from asgiws.telemetry.access_log import ClientAddress

__all__ = ["Admission"]


class Admission:
    """Counts connections and handshakes, and rejects those above a limit."""

    __slots__ = ("_config", "addresses", "admitted", "handshakes")

    def __init__(self, config: Config) -> None:
        self._config = config
        self.admitted = 0
        """Open connections that count towards the limits: all that were not rejected."""
        self.addresses: Counter[str] = Counter()
        """Open connections by client address; kept only when an option asks for it."""
        self.handshakes: Counter[str] = Counter()
        """Handshakes of this second by client address; kept only when an option asks for it."""

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

    def release(self, client: ClientAddress) -> None:
        """Stop counting a connection that was admitted."""
        self.admitted -= 1
        if self._config.max_connections_per_address and client is not None:
            self.addresses[client[0]] -= 1
            if not self.addresses[client[0]]:
                del self.addresses[client[0]]

    def admit_handshake(self, client: ClientAddress) -> Violation | None:
        """Count a handshake; return the violation when this second had too many from its address."""
        rate = self._config.handshake_rate
        if rate and client is not None:
            if self.handshakes[client[0]] >= rate:
                return Violation(errors.TOO_MANY_HANDSHAKES, f"over {rate} handshakes in a second, the limit")
            self.handshakes[client[0]] += 1
        return None

    def second_passed(self) -> None:
        """Start the next second of the handshake rate."""
        self.handshakes.clear()
