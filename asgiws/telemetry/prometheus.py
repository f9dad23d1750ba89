"""The exposition of a status (`asgiws.telemetry.scoreboard`) in the formats of Prometheus.

The metrics are declared where they are counted. Nothing is registered globally: each scrape makes a registry of its own
from one status. prometheus-client, an optional package (the extra `metrics`), writes the formats. Label values are
names of ours, numbers, and close codes limited by `code_label`: no client can create a series.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

from asgiws.telemetry.counters import Metric
from asgiws.telemetry.scoreboard import METRICS, Status

__all__ = ["METRICS", "expose"]


def expose(status: Status, accept: str) -> tuple[bytes, str]:
    """Return the metrics and their content type, in the format that `accept` asks for; as text if it is malformed.

    Raises ModuleNotFoundError when prometheus-client is not installed.
    """
    from prometheus_client import CollectorRegistry  # optional: only scraping needs it
    from prometheus_client.exposition import choose_encoder

    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # it compares versions as numbers, and "1..0" is none
        encode, content_type = choose_encoder("")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(status))
    return encode(registry), content_type


class _Collector:
    def __init__(self, status: Status) -> None:
        self._status = status

    def describe(self) -> Iterable[Any]:
        """Return nothing: the registry is used once."""
        return ()

    def collect(self) -> Iterator[Any]:
        """Return all families."""
        for metric in METRICS:
            yield _family(metric, self._status)


def _family(metric: Metric, status: Status) -> Any:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    if metric.kind == "histogram":
        values = status["histograms"][metric.key]
        # Prometheus counts in each bucket all that is below its bound.
        names = [*(str(float(bound)) for bound in values["bounds"]), "+Inf"]
        buckets = list(zip(names, accumulate(values["counts"]), strict=True))
        return HistogramMetricFamily(metric.name, metric.help, buckets=buckets, sum_value=values["total"])
    make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = make(metric.name, metric.help, labels=metric.labels)
    for labels, value in _values(metric, status):
        family.add_metric(labels, value)
    return family


def _values(metric: Metric, status: Status) -> Iterator[tuple[list[str], float]]:
    if metric.kind == "worker":
        # During a restart, two processes have the number of one slot.
        highest: dict[str, float] = {}
        for row in status["workers"]:
            number = str(row["number"])
            if row[metric.key] is None:
                continue
            highest[number] = max(highest.get(number, 0.0), row[metric.key])
        for number, value in highest.items():
            yield [number], value
    elif metric.key in ("ready", "draining"):
        yield [], float(status[metric.key])
    else:
        values = status["counts" if metric.kind == "counter" else "levels"][metric.key]
        for labels, value in values.items():
            yield labels.split(":") if metric.labels else [], value
