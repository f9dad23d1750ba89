"""What the connections of one worker share: options, limits, the application, counters and registries.

Made once by the server and handed to each connection. Nothing here does input or output; only the sweep in
`asgiws.server.sweep` writes the date.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from asgiws.config.options import Config
from asgiws.protocol.http.head_reader import HeadCache
from asgiws.protocol.trusted_networks import TrustedNetworks
from asgiws.schedule import Schedule
from asgiws.server.asgi import ASGIApp
from asgiws.server.state.admission import Admission
from asgiws.server.state.deadlines import Deadlines
from asgiws.server.state.departures import Departures
from asgiws.server.state.encoders import Encoders
from asgiws.server.state.incidents import Incidents
from asgiws.server.state.registry import Registry
from asgiws.telemetry.counters import Counters
from asgiws.topics.hub import Hub

__all__ = ["WorkerState", "server_fields"]


class WorkerState:
    """The shared state of one worker."""

    __slots__ = (
        "admission", "announced_closes", "app", "began_s", "config", "counters", "deadlines", "default_fields",
        "deflate_settings", "departures", "encoders", "forwarded_names", "heads", "incidents", "lag_s",
        "lifespan_state", "limits", "loop", "proxies", "registry", "topics", "write_low_water",
    )  # fmt: skip

    def __init__(self, app: ASGIApp, config: Config, loop: asyncio.AbstractEventLoop, topics: Hub) -> None:
        self.app = app
        self.config = config
        self.loop = loop
        self.topics = topics
        self.limits = config.limits()
        self.write_low_water = config.write_high_water // 4
        """Unsent bytes below which `send` continues; here so that all connections share the number."""
        self.proxies = TrustedNetworks(config.forwarded_allow_ips if config.proxy_headers else ())
        """Proxies whose forwarding fields are trusted."""
        self.forwarded_names = config.forwarded_names()
        """Names of those fields."""
        self.deflate_settings = config.deflate_settings()
        self.deadlines = Deadlines(config)
        self.began_s = time.monotonic()
        self.counters = Counters()
        self.registry = Registry(loop)
        self.admission = Admission(config, loop)
        self.announced_closes = Schedule(loop)
        """Closes of which the application has learnt; each follows `drain_notice` seconds later, so in order."""
        self.departures = Departures(loop)
        """Applications whose client has gone."""
        self.encoders = Encoders(self.deflate_settings)
        self.incidents = Incidents(config, self.counters, self.registry)
        self.heads = HeadCache(self.limits)
        """Request heads of this second."""
        self.default_fields = b""
        """Encoded fields that every response has: Date, Server and those of the operator."""
        self.lifespan_state: dict[str, Any] | None = None
        """The lifespan state; None when the application has no lifespan."""
        self.lag_s = 0.0
        """How late the last sweep was. Everything else on this loop waited as long."""

    def second_passed(self) -> None:
        """Start the next second of everything that is limited or kept per second."""
        self.heads.clear()
        self.encoders.forget()
        self.topics.second_passed()
        self.admission.second_passed()
        self.incidents.second_passed()


def server_fields(config: Config, date: str) -> bytes:
    """Encode the fields of every response: those of the operator, and Date and Server unless the operator set them."""
    given = [(name.lower(), value.strip()) for name, _, value in (entry.partition(":") for entry in config.header)]
    names = {name for name, _ in given}
    fields = [("date", date)] if config.date_header and "date" not in names else []
    if config.server_header and "server" not in names:
        fields.append(("server", "asgiws"))
    return "".join(f"{name}: {value}\r\n" for name, value in fields + given).encode("latin-1")
