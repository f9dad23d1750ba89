"""The report of one server: what it has counted, what is open now, and the most notable connections.

A worker sends its report to the supervisor with each heartbeat; `asgiws.telemetry.scoreboard` adds up those of all
workers, and of a server without workers its own. A report is plain data, as in JSON:

    pid, ready, overloaded, draining, up_s, lag_s, memory_bytes, certificate_days       of the process
    counts, levels, histograms      by metric and labels (`asgiws.telemetry.counters`)
    tenants                         open WebSockets by tenant, of the ten largest (`--max-connections-by`)
    connections                     rows of WebSockets: of each the ten largest, slowest, busiest and oldest

It is made on request, and reads each connection once. Nothing is kept for it on the data path.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from heapq import nlargest
from operator import itemgetter
from typing import Any, Final

from asgiws.protocol.websocket.closing import STATE_NAMES
from asgiws.protocol.websocket.deflate import DEDICATED
from asgiws.server.http.connection import HTTPConnection
from asgiws.server.recycling import resident_bytes
from asgiws.server.sockets.descriptors import descriptor_limit, open_descriptors
from asgiws.server.state.worker_state import WorkerState
from asgiws.server.tls.certificates import Certificates
from asgiws.server.websocket.connection import WebSocketConnection
from asgiws.server.websocket.waiting import WaitingHandshake
from asgiws.telemetry.access_log import format_address
from asgiws.telemetry.counters import Levels
from asgiws.telemetry.scoreboard import TENANTS_MOST

__all__ = ["describe_largest", "make_report"]

_ROWS: Final = 10
_ROWS_FOUND: Final = 50
_PATH_MOST: Final = 200
"""Characters of a path that a row shows."""
_TENANT_MOST: Final = 80
"""Characters of a tenant's name that are shown."""

_Figures = tuple[int, int, int, int, int, int, int, float]
"""Unsent bytes, messages and bytes in the inbox, messages and bytes in, messages and bytes out, the last round trip."""


def make_report(
    worker: WorkerState, certificates: Certificates | None, *, ready: bool, overloaded: bool
) -> dict[str, Any]:
    """Return the report of a server; O(connections), 1 to 2 us for each."""
    levels = Levels()
    levels.open_files, levels.open_files_limit = open_descriptors(), max(0, descriptor_limit())
    if certificates is not None:
        worker.counters.certificate_reload_failures = certificates.failed_reloads
    levels.openings = len(worker.admission.openings.taken)
    levels.shedding = int(worker.admission.overload is not None)
    websockets: list[WebSocketConnection] = []
    for connection in worker.registry.connections:
        if isinstance(connection, WebSocketConnection):
            websockets.append(connection)
        elif isinstance(connection, HTTPConnection):
            levels.http += 1
            levels.requests += connection.busy
            levels.unsent_bytes += connection.unsent_bytes
        elif isinstance(connection, WaitingHandshake):
            levels.waiting += 1
        else:
            levels.arriving += 1
    figures = [_figures(websocket) for websocket in websockets]
    _add_websockets(levels, figures)
    _add_compression(levels, worker, websockets)
    _add_topics(levels, worker)
    return {
        "pid": os.getpid(),
        "ready": ready,
        "overloaded": overloaded,
        "draining": worker.registry.draining,
        "up_s": time.monotonic() - worker.began_s,
        "lag_s": worker.lag_s,
        "memory_bytes": resident_bytes(),
        "certificate_days": certificates.days_left if certificates is not None else None,
        "counts": worker.counters.as_counts(levels),
        "histograms": worker.counters.as_histograms(),
        "levels": levels.as_levels(),
        "tenants": {
            tenant[:_TENANT_MOST].decode("latin-1"): count
            for tenant, count in worker.admission.tenants.most_common(TENANTS_MOST)
        },
        "connections": [_describe(websockets[place]) for place in _worth_a_look(websockets, figures)],
    }


def describe_largest(websockets: Sequence[WebSocketConnection]) -> list[dict[str, Any]]:
    """Return rows of the WebSockets that hold most and carried most."""

    def size(websocket: WebSocketConnection) -> tuple[float, float]:
        unsent, _, queued, _, bytes_in, _, bytes_out, _ = _figures(websocket)
        return unsent + queued, bytes_in + bytes_out

    largest = nlargest(_ROWS_FOUND, websockets, key=size)
    return [{"id": f"{os.getpid()}-{each.number}", **_describe(each)} for each in largest]


def _figures(websocket: WebSocketConnection) -> _Figures:
    receiver = websocket.receiver
    return (
        websocket.unsent_bytes, len(websocket.inbox), receiver.queued,
        receiver.messages_in, receiver.bytes_in, websocket.messages_out, websocket.bytes_out, websocket.round_trip_s,
    )  # fmt: skip


def _describe(websocket: WebSocketConnection) -> dict[str, Any]:
    """Return one row: what an operator may want to know of a connection."""
    unsent, inbox_messages, inbox_bytes, messages_in, bytes_in, messages_out, bytes_out, round_trip_s = _figures(
        websocket
    )
    return {
        "number": websocket.number, "path": websocket.path[:_PATH_MOST].decode("latin-1"),
        "client": format_address(websocket.client), "state": STATE_NAMES[websocket.closing.state],
        "open_s": time.monotonic() - websocket.began_s, "round_trip_s": round_trip_s, "messages_in": messages_in,
        "bytes_in": bytes_in, "messages_out": messages_out, "bytes_out": bytes_out,
        "inbox_messages": inbox_messages, "inbox_bytes": inbox_bytes, "unsent_bytes": unsent,
    }  # fmt: skip


def _add_websockets(levels: Levels, figures: Sequence[_Figures]) -> None:
    levels.websockets = len(figures)
    if figures:
        # By columns, so that the loops are not ours
        columns = [sum(column) for column in zip(*figures, strict=True)]
        levels.unsent_bytes += int(columns[0])
        levels.inbox_messages, levels.inbox_bytes = int(columns[1]), int(columns[2])
        levels.messages_in, levels.bytes_in = int(columns[3]), int(columns[4])
        levels.messages_out, levels.bytes_out = int(columns[5]), int(columns[6])


def _add_compression(levels: Levels, worker: WorkerState, websockets: Sequence[WebSocketConnection]) -> None:
    pairs = worker.encoders.compressed()
    if worker.deflate_settings.mode == DEDICATED:
        pairs += [websocket.encoder.own_compression for websocket in websockets]
    for before, after in pairs:
        levels.compressed_from += before
        levels.compressed_to += after


def _add_topics(levels: Levels, worker: WorkerState) -> None:
    hub, counters = worker.topics, worker.counters
    levels.topics, levels.subscriptions, levels.deaf = hub.topic_count, hub.subscription_count, int(hub.deaf)
    counters.topics_published, counters.topics_delivered = hub.published, hub.delivered
    counters.topics_skipped, counters.topics_gaps = hub.skipped, hub.gaps
    counters.topics_received, counters.topics_oversized = hub.received, hub.oversized
    counters.broker_reconnects = hub.reconnects
    counters.topics_gaps_filled = hub.recovery.filled
    counters.topics_recovered, counters.topics_unrecovered = hub.recovery.recovered, hub.recovery.unrecovered
    levels.history_bytes = hub.history.size_bytes


def _worth_a_look(websockets: Sequence[WebSocketConnection], figures: Sequence[_Figures]) -> set[int]:
    """Return the indexes of those that hold most, answer latest, carried most and are oldest."""
    places = range(len(websockets))
    if len(places) <= _ROWS:
        return set(places)
    columns = (
        [unsent + queued for unsent, _, queued, *_ in figures],
        [carried[4] + carried[6] for carried in figures],
        list(map(itemgetter(7), figures)),
        [-websocket.number for websocket in websockets],
    )
    return {place for column in columns for place in nlargest(_ROWS, places, key=column.__getitem__)}
