"""The end of the connections of a worker, in the order of a stop; each step is bounded.

announce    each response from now on carries `connection: close`
finish      idle HTTP connections close, requests finish, WebSockets get Close 1012 and event streams end. Clients
            of the latter two reconnect, so their ends are spread over `drain_spread` seconds. A WebSocket's
            application learns of its end `drain_notice` seconds before. All of this has `graceful_timeout` seconds
cancel      what is left is aborted, and its applications are cancelled; a second for these to end
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Final

from asgiws.protocol.printable import counted, escape
from asgiws.schedule import Schedule, spread
from asgiws.server.http.connection import HTTPConnection
from asgiws.server.state.registry import Connection
from asgiws.server.state.worker_state import WorkerState
from asgiws.server.websocket.connection import WebSocketConnection
from asgiws.telemetry.logs import LOG

__all__ = ["CANCEL_S", "announce_end", "cancel_connections", "describe_open", "finish_connections", "pause"]

CANCEL_S: Final = 1.0
"""For applications that were cancelled to end."""
_NAMED_MOST: Final = 5


def announce_end(worker: WorkerState) -> None:
    """Make open responses announce the end of their connection."""
    for connection in list(worker.registry.connections):
        if isinstance(connection, HTTPConnection):
            connection.begin_drain()


async def finish_connections(worker: WorkerState, forced: asyncio.Event) -> None:
    """Make connections and applications end, and wait for them up to `graceful_timeout` seconds or until `forced`."""
    registry, timeout_s = worker.registry, worker.config.graceful_timeout
    ends = _begin_shutdown(worker)
    try:
        async with asyncio.timeout(timeout_s):
            registry.forget_done()
            while (registry.connections or registry.tasks) and not forced.is_set():
                registry.quiet.clear()
                await registry.quiet.wait()
    except TimeoutError:
        paths = _paths(registry.tasks.values())
        LOG.warning(
            "%s did not end within %g s, ending now%s", describe_open(worker), timeout_s, paths and f": {paths}"
        )
    finally:
        ends.finish()
        worker.announced_closes.finish()


async def cancel_connections(worker: WorkerState) -> None:
    """End what is left."""
    for connection in list(worker.registry.connections):
        connection.abort()
    tasks = dict(worker.registry.tasks)
    for task in tasks:
        task.cancel()
    if tasks:
        _, pending = await asyncio.wait(tasks, timeout=CANCEL_S)
        if pending:
            paths = _paths(tasks[task] for task in pending)
            LOG.error(
                "%s did not end within %g s of being cancelled, not waiting for it: %s",
                counted(len(pending), "application"), CANCEL_S, paths,
            )  # fmt: skip


def describe_open(worker: WorkerState) -> str:
    """Return what a stop waits for, such as "1 request and 3 WebSockets"; empty when there is nothing."""
    connections, tasks = worker.registry.connections, worker.registry.tasks
    requests = sum(isinstance(connection, HTTPConnection) and connection.busy for connection in connections)
    websockets = sum(isinstance(connection, WebSocketConnection) for connection in connections)
    others = len(connections) - requests - websockets
    parts = [
        counted(count, noun)
        for count, noun in (
            (requests, "request"),
            (websockets, "WebSocket"),
            (others, "other connection" if requests or websockets else "connection"),
            (len(tasks) - requests - websockets, "application"),
        )
        if count > 0
    ]
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


async def pause(seconds: float, unless: asyncio.Event) -> None:
    """Wait, but no longer than until an event is set."""
    try:
        async with asyncio.timeout(seconds):
            await unless.wait()
    except TimeoutError:
        pass


def _begin_shutdown(worker: WorkerState) -> Schedule:
    """Begin the end of every connection; spread those whose clients reconnect, so that not all do so at once."""
    connections = worker.registry.connections
    spread_ones = [connection for connection in connections if connection.spreads_drain]
    for connection in list(connections):
        if not connection.spreads_drain:
            connection.begin_shutdown()

    def end(connection: Connection) -> None:
        if connection in connections:
            connection.begin_shutdown()

    if notice_s := worker.config.drain_notice:
        count = sum(isinstance(connection, WebSocketConnection) for connection in spread_ones)
        LOG.info("the application learns of the end of %s, %g s before", counted(count, "WebSocket"), notice_s)
    return spread(worker.loop, spread_ones, worker.config.drain_spread, end)


def _paths(targets: Iterable[str | bytes]) -> str:
    """Return the paths as text, the most frequent first, each with its count."""
    paths = Counter(target for target in targets if target)
    named = [escape(path) + (f" ({count})" if count > 1 else "") for path, count in paths.most_common(_NAMED_MOST)]
    if len(paths) > _NAMED_MOST:
        named.append(f"and {len(paths) - _NAMED_MOST} more")
    return ", ".join(named)
