"""What a worker counts, and the metric that each number is part of.

A number is declared once: as a field of `Counters` or `Levels` whose annotation names its metric and its label.
Reports, sums over workers (`asgiws.telemetry.scoreboard`), the exposition (`asgiws.telemetry.prometheus`) and the table
in the README of `asgiws.admin` are made from the declarations.

The fields are plain ints, incremented where something happens. Connections keep their own ints on the data path, which
are added here when a connection ends. `Levels` has what live connections have counted so far, so that a connection of
many hours shows its traffic. There are no locks: all of it belongs to the thread of the event loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, Final, NamedTuple, get_type_hints

__all__ = ["METRICS", "Counters", "Counts", "Histogram", "Levels", "Metric", "code_label", "counter", "gauge"]

Counts = dict[str, dict[str, int]]
"""Numbers by the key of their metric, and then by the values of their labels, joined by colons; "" without labels."""

_SHORT_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LONG_S: Final = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 24 * 3600.0, 7 * 24 * 3600.0)

# The registry of RFC 6455 section 11.7 beyond 1015, as IANA has it. Peers choose all other codes above 2999 freely.
_REGISTERED_CODES: Final = frozenset((3000, 3003, 3008))


class Metric(NamedTuple):
    """One metric."""

    key: str
    """Its name in a status."""
    name: str
    """Its name in Prometheus, with the suffix of a counter."""
    kind: str
    """counter, gauge, histogram, or worker: a gauge with one value for each worker."""
    labels: tuple[str, ...]
    help: str


def counter(key: str, text: str, *labels: str) -> Metric:
    """Declare a counter."""
    return Metric(key, f"asgiws_{key}_total", "counter", labels, text)


def gauge(key: str, text: str, *labels: str) -> Metric:
    """Declare a gauge."""
    return Metric(key, f"asgiws_{key}", "gauge", labels, text)


def _histogram(key: str, text: str) -> Metric:
    return Metric(key, f"asgiws_{key}_seconds", "histogram", (), text)


_HANDSHAKES: Final = counter("websocket_handshakes", "WebSocket handshakes", "outcome")
_MESSAGES: Final = counter("websocket_messages", "WebSocket messages", "direction")
_RECOVERIES: Final = counter("topic_recoveries", "Subscribers that came back with a position", "outcome")
_BYTES: Final = counter("websocket_bytes", "Bytes of WebSocket connections on the wire", "direction")
_CONNECTIONS: Final = gauge("connections", "Open connections", "kind")


class Histogram:
    """Durations counted in buckets with fixed upper bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = _SHORT_S) -> None:
        self.bounds = bounds
        """Seconds."""
        self.counts = [0] * (len(bounds) + 1)
        """For each bucket, and for values above the last bound; not cumulative."""
        self.total = 0.0
        """Seconds."""

    def add(self, value: float) -> None:
        """Count a value; O(log buckets)."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def as_json(self) -> dict[str, Any]:
        """Return the buckets and the sum. The sum is in whole nanoseconds, so that sums over workers are exact."""
        return {"bounds": self.bounds, "counts": list(self.counts), "total_ns": round(self.total * 1e9)}


class LongHistogram(Histogram):
    """Durations of up to a week."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(_LONG_S)


@dataclass(slots=True, eq=False, init=False)
class Counters:
    """What one worker has counted since it started. No value ever decreases."""

    handshakes: int
    """Handshakes passed to the application; also the number of the latest of these connections."""
    lag: Annotated[Histogram, _histogram("event_loop_lag", "Delay of the sweep: everything on the loop waited as long")]
    sweeps: Annotated[Histogram, _histogram("sweep_duration", "How long each sweep held the event loop")]
    http_requests: Annotated[int, counter("http_requests", "HTTP requests passed to the application")]
    http_responses: Annotated[Counter[int], counter("http_responses", "Complete HTTP responses", "status")]
    requests: Annotated[Histogram, _histogram("http_request_duration", "From a request's head to the response's end")]
    websockets_accepted: Annotated[int, _HANDSHAKES, "accepted"]
    websockets_refused: Annotated[int, _HANDSHAKES, "refused"]
    websockets_rejected: Annotated[int, _HANDSHAKES, "rejected"]
    """Handshakes that did not reach the application."""
    websockets_abandoned: Annotated[int, _HANDSHAKES, "abandoned"]
    """Without a complete response: the client left first, or the application did not complete its denial."""
    messages_in: Annotated[int, _MESSAGES, "in"]
    messages_out: Annotated[int, _MESSAGES, "out"]
    bytes_in: Annotated[int, _BYTES, "in"]
    bytes_out: Annotated[int, _BYTES, "out"]
    closes: Annotated[Counter[tuple[str, int]], counter("websocket_closes", "WebSockets that ended", "by", "code")]
    """By who ended them (client, app, server, admin) and close code."""
    opening_waits: Annotated[
        Histogram, _histogram("websocket_wait", "How long handshakes waited for a place (--max-opening)")
    ]
    lifetimes: Annotated[LongHistogram, _histogram("websocket_duration", "From handshake to end of a WebSocket")]
    round_trips: Annotated[Histogram, _histogram("websocket_round_trip", "From a keepalive ping to its pong")]
    keepalive_timeouts: Annotated[int, counter("keepalive_timeouts", "WebSockets closed after an unanswered ping")]
    drain_notices: Annotated[int, counter("drain_notices", "WebSockets whose application learnt of the Close before")]
    slow_consumers: Annotated[int, counter("slow_consumers", "Connections dropped because the client did not read")]
    compressed_from: Annotated[int, counter("compression_input_bytes", "Bytes before compression; a broadcast once")]
    compressed_to: Annotated[int, counter("compression_output_bytes", "Bytes after compression")]
    topics_published: Annotated[int, counter("topic_published", "Messages published to topics")]
    topics_delivered: Annotated[int, counter("topic_delivered", "Published messages delivered to subscribers")]
    topics_skipped: Annotated[int, counter("topic_skipped", "Deliveries left out because a subscriber was slow")]
    topics_gaps: Annotated[int, counter("topic_gaps", "Times that messages of a topic did not reach this worker")]
    topics_received: Annotated[int, counter("topic_received", "Published messages that a broker brought to a worker")]
    topics_oversized: Annotated[int, counter("topic_oversized", "Messages of a broker dropped as they were too large")]
    broker_reconnects: Annotated[int, counter("broker_reconnects", "Times that a worker lost its broker")]
    broker_round_trip: Annotated[
        Histogram, _histogram("broker_round_trip", "From a worker to the broker and back, every ten seconds")
    ]
    topics_gaps_filled: Annotated[int, counter("topic_gaps_filled", "Such gaps that were filled from history")]
    topics_recovered: Annotated[int, _RECOVERIES, "complete"]
    topics_unrecovered: Annotated[int, _RECOVERIES, "incomplete"]
    relay_lag: Annotated[Histogram, _histogram("topic_relay_lag", "From a worker to the relay of topics and back")]
    rejections: Annotated[Counter[str], counter("rejections", "Requests and connections that broke a rule", "rule")]
    app_errors: Annotated[int, counter("app_errors", "Exceptions raised by the application")]
    accept_errors: Annotated[int, counter("accept_errors", "Connections that could not be accepted")]
    certificate_reload_failures: Annotated[
        int, counter("certificate_reload_failures", "Reloads of certificates that failed")
    ]

    def __init__(self) -> None:
        for name, kind in _KINDS.items():
            setattr(self, name, kind())

    def as_counts(self, live: Levels) -> Counts:
        """Return all counts, including what live connections have counted so far."""
        counts: Counts = {}
        for name, metric, label in _COUNTS:
            value, values = getattr(self, name), counts.setdefault(metric.key, {})
            if isinstance(value, int):
                values[label] = value + getattr(live, name, 0)
            else:
                for labels, count in value.items():
                    text = f"{labels[0]}:{code_label(*labels)}" if isinstance(labels, tuple) else str(labels)
                    values[text] = values.get(text, 0) + count
        return counts

    def as_histograms(self) -> dict[str, dict[str, Any]]:
        """Return all histograms by the key of their metric."""
        return {metric.key: getattr(self, name).as_json() for name, metric, _ in _HISTOGRAMS}


@dataclass(slots=True, eq=False)
class Levels:
    """What the open connections of a worker hold at one moment, and have counted since each started."""

    arriving: Annotated[int, _CONNECTIONS, "arriving"] = 0
    """TLS handshake or PROXY header pending."""
    http: Annotated[int, _CONNECTIONS, "http"] = 0
    websockets: Annotated[int, _CONNECTIONS, "websocket"] = 0
    waiting: Annotated[int, _CONNECTIONS, "waiting"] = 0
    """A handshake that waits for a place with the application."""
    openings: Annotated[
        int, gauge("websocket_openings", "Handshakes that the application has not answered; counted with --max-opening")
    ] = 0
    shedding: Annotated[int, gauge("shedding", "Workers that refuse new clients (--shed-lag, --shed-memory)")] = 0
    requests: Annotated[int, gauge("http_requests_open", "HTTP requests that the application is handling")] = 0
    unsent_bytes: Annotated[int, gauge("write_buffer_bytes", "Bytes waiting to be read by clients")] = 0
    inbox_messages: Annotated[int, gauge("inbox_messages", "Messages waiting for the application")] = 0
    inbox_bytes: Annotated[int, gauge("inbox_bytes", "Size of these messages: bytes, of text characters")] = 0
    open_files: Annotated[int, gauge("open_files", "Open file descriptors")] = 0
    open_files_limit: Annotated[int, gauge("open_files_limit", "How many file descriptors may be open")] = 0
    topics: Annotated[int, gauge("topics", "Topics that have subscribers, in each worker")] = 0
    subscriptions: Annotated[int, gauge("topic_subscriptions", "Subscriptions to topics")] = 0
    deaf: Annotated[int, gauge("broker_deaf_workers", "Workers whose broker is away: they may miss messages")] = 0
    history_bytes: Annotated[int, gauge("topic_history_bytes", "Memory of the messages that topics keep")] = 0
    bytes_in: int = 0
    """This and what follows is added to the field of `Counters` of the same name."""
    bytes_out: int = 0
    compressed_from: int = 0
    """By compressors of single connections."""
    compressed_to: int = 0
    messages_in: int = 0
    messages_out: int = 0

    def as_levels(self) -> Counts:
        """Return the gauges."""
        levels: Counts = {}
        for name, metric, label in _LEVELS:
            levels.setdefault(metric.key, {})[label] = getattr(self, name)
        return levels


def code_label(by: str, code: int) -> str:
    """Return a close code as a label value; the number of values is bounded.

    Clients choose freely from 3000 to 4999 and could create a time series for each. The application's codes are kept.
    """
    if by == "app" or code < 3000 or code in _REGISTERED_CODES:
        return str(code)
    return "3xxx" if code < 4000 else "4xxx"


def _declared(kind: type) -> list[tuple[str, Metric, str]]:
    """Return each declared field of a class with its metric and its label."""
    hints = get_type_hints(kind, include_extras=True)
    marks = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return [(name, mark[0], (*mark, "")[1]) for name, mark in marks.items() if mark]


_KINDS: Final = get_type_hints(Counters)
_COUNTERS: Final = _declared(Counters)
_COUNTS: Final = [each for each in _COUNTERS if each[1].kind == "counter"]
_HISTOGRAMS: Final = [each for each in _COUNTERS if each[1].kind == "histogram"]
_LEVELS: Final = _declared(Levels)

METRICS: Final = tuple(dict.fromkeys(metric for _, metric, _ in (*_LEVELS, *_COUNTERS)))
"""All metrics of a worker."""
