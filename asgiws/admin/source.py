"""What the admin address reports on and controls: one server in this process, or the supervisor with its workers."""

from __future__ import annotations

import os
from typing import Any, Final, Protocol

from asgiws.server.bulk_close import BulkClose
from asgiws.server.server import Server
from asgiws.telemetry.scoreboard import Scoreboard, Status, Worker
from asgiws.topics.message import Message, check_data

__all__ = ["OneServer", "Source"]

_KEY: Final = "this process"


class Source(Protocol):
    """A server as its operator sees it."""

    @property
    def ready(self) -> bool:
        """Whether every worker has started, none was told to stop, and not all are overloaded."""

    def status(self) -> Status:
        """Return the status, see `asgiws.telemetry.scoreboard`."""

    async def close_connection(self, pid: int, number: int, code: int, reason: str) -> bool:
        """Close a WebSocket; return whether it was open. Raises TimeoutError when its worker does not answer."""

    async def close_many(
        self, *, path: str, client: str, percent: int, over_s: float, code: int, reason: str, pid: int | None
    ) -> int:
        """Begin to close many WebSockets, of one worker or of all; return how many.

        `asgiws.server.bulk_close` says what the values mean. Raises ValueError with one line when one is not allowed,
        TimeoutError when no worker answers.
        """

    async def find_connections(self, *, path: str, client: str) -> list[dict[str, Any]]:
        """Return rows of open WebSockets of a path and client, at most 50 of each worker. Raises as `close_many`."""

    async def drain_worker(self, pid: int) -> bool:
        """Replace a worker; return whether there is one. A process that serves alone stops instead."""

    async def publish(self, topic: str, data: str | bytes) -> None:
        """Publish to a topic, as the application does.

        Raises ValueError for more than --max-publish-size bytes, TopicsUnavailable when the bus takes nothing.
        """


class OneServer:
    """The source of a process that serves alone."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._scoreboard = Scoreboard()

    @property
    def ready(self) -> bool:
        """Whether it accepts connections, was not told to stop, and is not overloaded (`--shed-readiness`)."""
        return self._server.started and self._server.ready

    def status(self) -> Status:
        """Return the status of the server; all numbers are 0 before it was started."""
        server, state, draining = self._server, "starting", False
        if server.started:
            self._scoreboard.update(_KEY, server.report())
            draining = server.worker.registry.draining
            state = "stopping" if draining else "serving" if server.serving else "starting"
        worker = Worker(_KEY, 1, os.getpid(), state)
        return self._scoreboard.status([worker], ready=self.ready, draining=draining)

    async def close_connection(self, pid: int, number: int, code: int, reason: str) -> bool:
        """Close a WebSocket; return whether it was open."""
        return self._server.started and pid == os.getpid() and self._server.close_connection(number, code, reason)

    async def close_many(
        self, *, path: str, client: str, percent: int, over_s: float, code: int, reason: str, pid: int | None
    ) -> int:
        """Begin to close many WebSockets; return how many."""
        order = BulkClose(path, client, percent, over_s, code, reason)
        mine = self._server.started and pid in (None, os.getpid())
        return self._server.close_websockets(order) if mine else 0

    async def find_connections(self, *, path: str, client: str) -> list[dict[str, Any]]:
        """Return rows of open WebSockets of a path and client."""
        return self._server.find_websockets(BulkClose(path, client)) if self._server.started else []

    async def drain_worker(self, pid: int) -> bool:
        """Have this process stop; return whether it is the one that was named, and was not told before."""
        return pid == os.getpid() and self._server.serving and self._server.retire("drained by the operator")

    async def publish(self, topic: str, data: str | bytes) -> None:
        """Publish to a topic."""
        config = self._server.config
        message = Message(config.topic_prefix + topic, check_data(data, config.max_publish_size))
        if self._server.started:  # before, nobody has subscribed
            await self._server.worker.topics.publish(message)
