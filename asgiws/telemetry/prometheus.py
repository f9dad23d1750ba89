"""The metrics: one table of names, kinds, labels and meanings, and their exposition in Prometheus' formats.

Made from a status (`asgiws.telemetry.scoreboard`) when somebody asks; nothing is registered anywhere. The formats are
prometheus-client's work, which is optional (the extra `metrics`). Label values are names of ours, numbers, and the
close codes of `code_label`: nothing that a client chooses makes a series.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from asgiws.telemetry.scoreboard import Status

__all__ = ["METRICS", "Metric", "expose"]


class Metric(NamedTuple):
    """One metric."""

    name: str
    """As it is scraped, with the suffix of a counter."""
    kind: str
    """counter, gauge, histogram, or worker: a gauge with a value for each worker."""
    labels: tuple[str, ...]
    field: str
    """Where its values stand in a status."""
    help: str


def _counter(name: str, field: str, text: str, *labels: str) -> Metric:
    return Metric(f"asgiws_{name}_total", "counter", labels, field, text)


def _gauge(name: str, field: str, text: str, *labels: str) -> Metric:
    return Metric(f"asgiws_{name}", "gauge", labels, field, text)


def _histogram(name: str, field: str, text: str) -> Metric:
    return Metric(f"asgiws_{name}_seconds", "histogram", (), field, text)


def _worker(name: str, field: str, text: str) -> Metric:
    return Metric(f"asgiws_worker_{name}", "worker", ("worker",), field, text)


METRICS: Final = (
    _gauge("ready", "ready", "1 when every worker has started and nobody has told the server to stop"),
    _gauge("draining", "draining", "1 from the order to stop on"),
    _gauge("workers", "workers", "Worker processes", "state"),
    _counter("worker_restarts", "restarts", "Workers started in the place of another", "reason"),
    _worker("lag_seconds", "lag_s", "How late the last sweep of a worker came"),
    _worker("memory_bytes", "memory_bytes", "Resident memory of a worker"),
    _worker("uptime_seconds", "up_s", "Since a worker began"),
    _histogram("event_loop_lag", "lag", "How late the sweeps came: what all else on the loop waited too"),
    _gauge("connections", "connections", "Open connections", "kind"),
    _gauge("http_requests_open", "requests_open", "HTTP requests that are with the application"),
    _counter("http_requests", "http_requests", "HTTP requests given to the application"),
    _counter("http_responses", "http_responses", "HTTP responses that are complete", "status"),
    _histogram("http_request_duration", "requests", "From a request's head to the end of its response"),
    _counter("websocket_handshakes", "handshakes", "WebSocket handshakes", "outcome"),
    _counter("websocket_messages", "messages", "WebSocket messages", "direction"),
    _counter("websocket_bytes", "bytes", "Bytes of WebSocket connections on the wire", "direction"),
    _counter("websocket_closes", "closes", "WebSockets that ended", "by", "code"),
    _histogram("websocket_duration", "lifetimes", "From a handshake to the end of its WebSocket"),
    _histogram("websocket_round_trip", "round_trips", "From a keepalive ping to its answer"),
    _counter("keepalive_timeouts", "keepalive_timeouts", "WebSockets ended because a ping had no answer"),
    _counter("slow_consumers", "slow_consumers", "Connections ended because the client did not read"),
    _gauge("write_buffer_bytes", "unsent_bytes", "Bytes that wait for clients to take them"),
    _gauge("inbox_messages", "inbox_messages", "Messages that wait for the application"),
    _gauge("inbox_bytes", "inbox_bytes", "Bytes, of text characters, of messages that wait for the application"),
    _counter("compression_input_bytes", "compressed_from", "Bytes before compression; a broadcast counts once"),
    _counter("compression_output_bytes", "compressed_to", "Bytes after compression"),
    _counter("rejections", "rejections", "Requests and connections that broke a rule", "rule"),
    _counter("app_errors", "app_errors", "Exceptions that the application raised"),
    _counter("accept_errors", "accept_errors", "Times that a connection could not be accepted"),
    _counter("admin_denials", "admin_denials", "Requests to the admin address with a wrong token"),
)  # fmt: skip


def expose(status: Status, accept: str) -> tuple[bytes, str]:
    """Give the metrics and their content type, in the format that `accept` asks for; in text when it is malformed.

    Raises ModuleNotFoundError when prometheus-client is not installed.
    """
    from prometheus_client import CollectorRegistry  # optional: not everybody scrapes
    from prometheus_client.exposition import choose_encoder

    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # it compares versions as numbers: "1..0" is none
        encode, content_type = choose_encoder("")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(status))
    return encode(registry), content_type


class _Collector:
    def __init__(self, status: Status) -> None:
        self._status = status

    def describe(self) -> Iterable[Any]:
        """Name nothing beforehand: the registry is used once."""
        return ()

    def collect(self) -> Iterator[Any]:
        """Give all families."""
        for metric in METRICS:
            yield _family(metric, self._status)


def _family(metric: Metric, status: Status) -> Any:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    if metric.kind == "histogram":
        values = status["histograms"][metric.field]
        return HistogramMetricFamily(metric.name, metric.help, buckets=_buckets(values), sum_value=values["total"])
    make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = make(metric.name, metric.help, labels=metric.labels)
    for labels, value in _values(metric, status):
        family.add_metric(labels, value)
    return family


def _values(metric: Metric, status: Status) -> Iterator[tuple[list[str], float]]:
    if metric.kind == "worker":
        # While one takes over from another, two have the number of one slot.
        highest: dict[str, float] = {}
        for row in status["workers"]:
            number = str(row["number"])
            highest[number] = max(highest.get(number, 0.0), row[metric.field])
        for number, value in highest.items():
            yield [number], value
    elif metric.field in ("ready", "draining"):
        yield [], float(status[metric.field])
    else:
        values = status["counts" if metric.kind == "counter" else "levels"][metric.field]
        for labels, value in values.items():
            yield labels.split(":") if metric.labels else [], value


def _buckets(values: dict[str, Any]) -> list[tuple[str, float]]:
    """Give the ranges as Prometheus has them: each with all that is below its bound."""
    buckets: list[tuple[str, float]] = []
    below = 0
    for bound, count in zip((*values["bounds"], None), values["counts"], strict=True):
        below += count
        buckets.append(("+Inf" if bound is None else str(float(bound)), below))
    return buckets
