"""The live view as lines of text: what `asgiws top` shows of one status, or of two and the time between them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

from asgiws.protocol.printable import escape
from asgiws.telemetry.scoreboard import Status

__all__ = ["Filter", "view_lines"]

_WORKER_COLUMNS: Final = ("WORKER", "PID", "STATE", "UP", "WS", "HTTP", "IN/S", "OUT/S", "LAG", "MEMORY")
_CONNECTION_COLUMNS: Final = ("ID", "OPEN", "RTT", "MSGS IN", "BYTES IN", "MSGS OUT", "BYTES OUT", "UNSENT", "INBOX",
                              "CLIENT", "PATH")  # fmt: skip
_LEFT: Final = frozenset(("STATE", "CLIENT", "PATH", "ID"))
# Shown from this width on
_WIDE: Final = 120
_WIDE_COLUMNS: Final = frozenset(("MSGS IN", "BYTES IN", "MSGS OUT", "BYTES OUT"))
_LABEL: Final = 13
_CLOSES_MOST: Final = 8
_SLOWEST_MOST: Final = 5
_LARGEST_LEAST: Final = 3
_LARGEST_ONCE: Final = 10


class Filter(NamedTuple):
    """Which connections are listed; empty for all."""

    path: str = ""
    """A path, or the start of one followed by `*`."""
    client: str = ""
    """An address, a network, or `unix`."""


def view_lines(
    status: Status, before: Status | None, seconds: float, *, width: int | None, height: int | None,
    chosen: Filter = Filter(),  # noqa: B008 - immutable
) -> list[str]:  # fmt: skip
    """Return the view in at most `height` lines of `width` columns; `before` is the status of `seconds` ago.

    The list of the largest connections takes the height that is left. None for a view without bounds.
    """
    change = _Change(status, before, seconds)
    lines = [line for label, parts in _summary(status, change) for line in _wrapped(label, parts, width)]
    lines += ["", *_workers(status, change), ""]
    measured = [row for row in status["connections"] if row["round_trip_s"]]
    slowest = _connections("SLOWEST", measured, itemgetter("round_trip_s"), _SLOWEST_MOST, width)
    left = _LARGEST_ONCE if height is None else max(_LARGEST_LEAST, height - len(lines) - len(slowest) - 3)
    of = "".join(f", {name} {escape(text)}" for name, text in chosen._asdict().items() if text)
    lines += _connections("LARGEST", status["connections"], _held, left, width, of)
    lines += ["", *slowest]
    return [line[:width] for line in lines[:height]]


def _wrapped(label: str, parts: Sequence[str], width: int | None) -> list[str]:
    """Return parts side by side behind their label, in as many lines as they take."""
    lines = [label.ljust(_LABEL) + parts[0]]
    for part in parts[1:]:
        if width is not None and len(lines[-1]) + 3 + len(part) > width:
            lines.append(" " * _LABEL + part)
        else:
            lines[-1] += f"   {part}"
    return lines


class _Change:
    """Differences of two statuses, as rates."""

    def __init__(self, status: Status, before: Status | None, seconds: float) -> None:
        self._now = status
        self._before = before
        self._seconds = seconds

    def rate(self, name: str, label: str | None = None) -> str:
        if self._before is None or self._seconds <= 0:
            return "-"
        now, before = (_count(status["counts"][name], label) for status in (self._now, self._before))
        return _number(max(0, now - before) / self._seconds)

    def rate_bytes(self, label: str) -> str:
        if self._before is None or self._seconds <= 0:
            return "-"
        now, before = (status["counts"]["websocket_bytes"].get(label, 0) for status in (self._now, self._before))
        return f"{_bytes(max(0, now - before) / self._seconds)}/s"

    def of_worker(self, worker: Mapping[str, Any], label: str) -> str:
        for row in self._before["workers"] if self._before is not None else ():
            if row["pid"] == worker["pid"] and self._seconds > 0:
                change = worker["messages"].get(label, 0) - row["messages"].get(label, 0)
                return _number(max(0, change) / self._seconds)
        return "-"

    def percentile(self, name: str, share: float) -> str:
        """Return the bucket below which a share of the values lies: of those since the last status, if any."""
        histogram = self._now["histograms"][name]
        counts = list(histogram["counts"])
        if self._before is not None:
            earlier = self._before["histograms"][name]["counts"]
            recent = [max(0, one - other) for one, other in zip(counts, earlier, strict=True)]
            counts = recent if sum(recent) else counts
        wanted, below = share * sum(counts), 0
        if not wanted:
            return "-"
        for bound, count in zip(histogram["bounds"], counts, strict=False):
            below += count
            if below >= wanted:
                return f"<{_short(bound)}"
        return f">{_short(histogram['bounds'][-1])}"

    def percentiles(self, name: str) -> str:
        return f"half {self.percentile(name, 0.5)}, 99 % {self.percentile(name, 0.99)}"


def _summary(status: Status, change: _Change) -> list[tuple[str, list[str]]]:
    """Return labels and what follows each."""
    counts, levels = status["counts"], status["levels"]
    state = "draining" if status["draining"] else "ready" if status["ready"] else "not ready"
    if _count(status["levels"]["shedding"]):
        state += f", {_count(status['levels']['shedding'])} refusing new clients"
    workers = ", ".join(f"{count} {name}" for name, count in levels["workers"].items() if count) or "none"
    plain, packed = _count(counts["compression_input_bytes"]), _count(counts["compression_output_bytes"])
    closes = sorted(counts["websocket_closes"].items(), key=lambda pair: -pair[1])[:_CLOSES_MOST]
    messages = counts["websocket_messages"]
    return [
        (f"asgiws {escape(str(status['version']))}", [
            state, f"workers: {workers}", f"restarts: {_listed(counts['worker_restarts'])}",
        ]),
        ("open", [
            f"{levels['connections']['websocket']} WebSockets, {levels['connections']['http']} HTTP connections, "
            f"{_count(levels['http_requests_open'])} requests",
        ]),
        ("handshakes", [
            f"{_number(_count(counts['websocket_handshakes']))}, {change.rate('websocket_handshakes')}/s",
            f"requests {_number(_count(counts['http_requests']))}, {change.rate('http_requests')}/s",
        ]),
        ("messages", [
            f"{way} {_number(messages[way])}, {change.rate('websocket_messages', way)}/s" for way in ("in", "out")
        ]),
        ("bytes", [
            *(f"{way} {_bytes(counts['websocket_bytes'][way])}, {change.rate_bytes(way)}" for way in ("in", "out")),
            f"compressed to {f'{100 * packed / plain:.0f} %' if plain else '-'}",
        ]),
        ("waiting", [
            f"unsent {_bytes(_count(levels['write_buffer_bytes']))}",
            f"inbox {_count(levels['inbox_messages'])} messages, {_bytes(_count(levels['inbox_bytes']))}",
        ]),
        *_openings(status, change),
        *_topics(status, change),
        *_broker(status, change),
        ("loop lag", [
            change.percentiles("event_loop_lag"), f"round trip {change.percentiles('websocket_round_trip')}",
        ]),
        ("trouble", [
            f"keepalive timeouts {_count(counts['keepalive_timeouts'])}",
            f"slow consumers {_count(counts['slow_consumers'])}", f"exceptions {_count(counts['app_errors'])}",
            f"accept errors {_count(counts['accept_errors'])}", f"rejections: {_listed(counts['rejections'])}",
        ]),
        ("closes", [f"{escape(who)} {_number(count)}" for who, count in closes] or ["none"]),
    ]  # fmt: skip


def _openings(status: Status, change: _Change) -> list[tuple[str, list[str]]]:
    """Return the lines of handshakes that wait, and of tenants; none where they are not used."""
    levels, lines = status["levels"], []
    openings, waiting = _count(levels["websocket_openings"]), levels["connections"]["waiting"]
    if openings or waiting or sum(status["histograms"]["websocket_wait"]["counts"]):
        waits = f"waited {change.percentiles('websocket_wait')}"
        lines.append(("openings", [f"{openings} with the application, {waiting} waiting", waits]))
    if status["tenants"]:
        lines.append(("tenants", [f"{escape(name)} {_number(count)}" for name, count in status["tenants"].items()]))
    return lines


def _topics(status: Status, change: _Change) -> list[tuple[str, list[str]]]:
    """Return the line of topics; none where they are not used."""
    counts, levels = status["counts"], status["levels"]
    topics, published, gaps = levels["topics"], counts["topic_published"], counts["topic_gaps"]
    if not any(_count(values) for values in (topics, published, gaps)):
        return []
    return [
        ("topics", [
            f"{_number(_count(topics))}, {_number(_count(levels['topic_subscriptions']))} subscriptions",
            f"published {_number(_count(published))}, {change.rate('topic_published')}/s",
            f"delivered {_number(_count(counts['topic_delivered']))}, {change.rate('topic_delivered')}/s",
            f"skipped {_number(_count(counts['topic_skipped']))}", f"gaps {_number(_count(gaps))}",
            f"relay lag {change.percentiles('topic_relay_lag')}",
        ]),
    ]  # fmt: skip


def _broker(status: Status, change: _Change) -> list[tuple[str, list[str]]]:
    """Return the line of the broker; none where there is none."""
    counts = status["counts"]
    deaf, lost, received = (
        status["levels"]["broker_deaf_workers"],
        counts["broker_reconnects"],
        counts["topic_received"],
    )
    if not any(_count(values) for values in (deaf, lost, received)):
        return []
    return [
        ("broker", [
            f"away from {_count(deaf)} of {len(status['workers'])} workers" if _count(deaf) else "connected",
            f"lost {_number(_count(lost))}",
            f"received {_number(_count(received))}, {change.rate('topic_received')}/s",
            f"oversized {_number(_count(counts['topic_oversized']))}",
            f"round trip {change.percentiles('broker_round_trip')}",
        ]),
    ]  # fmt: skip


def _workers(status: Status, change: _Change) -> list[str]:
    rows = [
        (
            str(worker["number"]), str(worker["pid"]), worker["state"], _span(worker["up_s"]),
            str(worker["connections"].get("websocket", 0)), str(worker["connections"].get("http", 0)),
            change.of_worker(worker, "in"), change.of_worker(worker, "out"), _short(worker["lag_s"]),
            _bytes(worker["memory_bytes"]),
        )
        for worker in status["workers"]
    ]  # fmt: skip
    return _table(_WORKER_COLUMNS, rows)


def _connections(
    title: str, connections: Sequence[Mapping[str, Any]], order: Callable[[Mapping[str, Any]], Any], count: int,
    width: int | None, of: str = "",
) -> list[str]:  # fmt: skip
    chosen = sorted(connections, key=order, reverse=True)[:count]
    rows = [
        (
            escape(str(row["id"])), _span(row["open_s"]), _short(row["round_trip_s"]) if row["round_trip_s"] else "-",
            _number(row["messages_in"]), _bytes(row["bytes_in"]), _number(row["messages_out"]),
            _bytes(row["bytes_out"]), _bytes(row["unsent_bytes"]), str(row["inbox_messages"]),
            escape(str(row["client"])), escape(str(row["path"])),
        )
        for row in chosen
    ]  # fmt: skip
    hidden = _WIDE_COLUMNS if width is not None and width < _WIDE else ()
    return [f"{title} CONNECTIONS{of}", *(_table(_CONNECTION_COLUMNS, rows, hidden) if rows else ["none"])]


def _held(row: Mapping[str, Any]) -> tuple[int, int]:
    return row["unsent_bytes"] + row["inbox_bytes"], row["bytes_in"] + row["bytes_out"]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], hidden: Collection[str] = ()) -> list[str]:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    lines = []
    for row in (columns, *rows):
        cells = [
            text.ljust(width) if name in _LEFT else text.rjust(width)
            for name, text, width in zip(columns, row, widths, strict=True)
            if name not in hidden
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _count(values: Mapping[str, int], label: str | None = None) -> int:
    return sum(values.values()) if label is None else values.get(label, 0)


def _listed(values: Mapping[str, int]) -> str:
    named: Iterable[str] = (f"{escape(name)} {_number(count)}" for name, count in values.items() if count)
    return ", ".join(named) or "none"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


def _bytes(value: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{_number(value)} {unit}"
        value /= 1024
    return f"{_number(value)} GiB"


def _short(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
