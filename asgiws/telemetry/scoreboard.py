"""The sum of what all workers report. No counter of it ever decreases.

A worker counts from zero. The last report of a worker that has ended is added to the total of all ended ones, and the
sum of that and of the running workers only grows. All addends are integers: a sum of floats depends on their order,
which changes when a worker ends. Gauges are those of the running workers. Pure: the caller knows processes and time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from asgiws._version import __version__
from asgiws.telemetry.counters import METRICS as WORKER_METRICS
from asgiws.telemetry.counters import Counters, Counts, Levels, Metric, counter, gauge

__all__ = ["METRICS", "RESTART_REASONS", "TENANTS_MOST", "WORKER_STATES", "Report", "Scoreboard", "Status", "Worker"]

WORKER_STATES: Final = ("starting", "serving", "stopping")
RESTART_REASONS: Final = ("died", "hung", "recycled", "reload")
TENANTS_MOST: Final = 10
"""Tenants that a status names: those with most WebSockets. Each worker reports as many, so the sums are estimates."""


def _of_process(key: str, name: str, text: str) -> Metric:
    return Metric(key, f"asgiws_worker_{name}", "worker", ("worker",), text)


_PROCESS: Final = (
    _of_process("up_s", "uptime_seconds", "Time since the worker started"),
    _of_process("lag_s", "lag_seconds", "Delay of a worker's latest sweep, or of its report when that is overdue"),
    _of_process("memory_bytes", "memory_bytes", "Resident memory of a worker"),
    _of_process("certificate_days", "certificate_days", "Days until the certificate expires; absent without TLS"),
)
"""What a report says of its process; 0 before the first report."""

METRICS: Final = (
    gauge("ready", "1 when every worker has started and the server was not told to stop"),
    gauge("draining", "1 from the signal to stop until the end"),
    gauge("workers", "Worker processes", "state"),
    counter("worker_restarts", "Workers started in place of another", "reason"),
    counter("admin_denials", "Requests to the admin address with a wrong token"),
    *_PROCESS,
    *WORKER_METRICS,
)
"""All metrics of a server."""

Report = Mapping[str, Any]
"""What a worker says of itself, see `asgiws.server.stats`."""
Status = dict[str, Any]
"""What `Scoreboard.status` returns: plain data, as in JSON."""


class Worker(NamedTuple):
    """A worker process as its supervisor sees it."""

    key: Hashable
    """Under which its reports are kept."""
    number: int
    pid: int
    state: str
    """One of WORKER_STATES."""
    late_s: float = 0.0
    """How long its next report is overdue: a blocked worker cannot report that it is blocked."""


class Scoreboard:
    """Reports by worker, and the totals of the workers that have ended."""

    def __init__(self) -> None:
        nothing = Levels()
        # All names exist from the start: a series that appears late hides its first increase.
        self._ended = Counters().as_counts(nothing)
        self._ended_histograms = Counters().as_histograms()
        self._no_levels = nothing.as_levels()
        self._living: dict[Hashable, Report] = {}
        self.restarts: Counter[str] = Counter()
        """Workers that were started in place of another, by reason."""

    def update(self, worker: Hashable, report: Report) -> None:
        """Store a worker's newest report."""
        self._living[worker] = report

    def end(self, worker: Hashable) -> None:
        """Keep the counts of a worker that has ended."""
        report = self._living.pop(worker, None)
        if report is not None:
            _add_counts(self._ended, report["counts"])
            _add_histograms(self._ended_histograms, report["histograms"])

    @property
    def overloaded(self) -> bool:
        """Whether every worker refuses new clients, and is to be reported as not ready because of that."""
        return bool(self._living) and all(report["overloaded"] for report in self._living.values())

    def count_published(self) -> None:
        """Count a message that the supervisor has published, as what no worker will report."""
        self._ended["topic_published"][""] += 1

    def status(self, workers: Sequence[Worker], *, ready: bool, draining: bool) -> Status:
        """Return the sums, and what is known of each worker."""
        levels = _copied(self._no_levels)
        counts = _copied(self._ended)
        histograms = {name: dict(histogram) for name, histogram in self._ended_histograms.items()}
        tenants: Counter[str] = Counter()
        for report in self._living.values():
            tenants.update(report["tenants"])
            _add_counts(levels, report["levels"])
            _add_counts(counts, report["counts"])
            _add_histograms(histograms, report["histograms"])
        levels["workers"] = {name: sum(worker.state == name for worker in workers) for name in WORKER_STATES}
        counts["worker_restarts"] = {reason: self.restarts[reason] for reason in RESTART_REASONS}
        for histogram in histograms.values():
            histogram["total"] = histogram.pop("total_ns") / 1e9
        return {
            "version": __version__,
            "ready": ready,
            "draining": draining,
            "workers": [self._row(worker) for worker in workers],
            "counts": counts,
            "histograms": histograms,
            "levels": levels,
            "tenants": dict(tenants.most_common(TENANTS_MOST)),
            "connections": list(self._connections()),
        }

    def _row(self, worker: Worker) -> dict[str, Any]:
        """Return one worker."""
        report = self._living.get(worker.key, {})
        row: dict[str, Any] = {"number": worker.number, "pid": worker.pid, "state": worker.state}
        row |= {metric.key: report.get(metric.key, 0) for metric in _PROCESS}
        row["certificate_days"] = report.get("certificate_days")
        row["lag_s"] = max(row["lag_s"], worker.late_s) if report else 0
        row["connections"] = dict(report["levels"]["connections"]) if report else {}
        row["messages"] = dict(report["counts"]["websocket_messages"]) if report else {}
        return row

    def _connections(self) -> Iterator[dict[str, Any]]:
        """Return the rows of all workers, each with a unique `id` of process and number."""
        for report in self._living.values():
            for row in report["connections"]:
                yield {"id": f"{report['pid']}-{row['number']}", **row}


def _copied(counts: Counts) -> Counts:
    return {name: dict(values) for name, values in counts.items()}


def _add_counts(sums: Counts, more: Mapping[str, Mapping[str, int]]) -> None:
    for name, values in more.items():
        into = sums.setdefault(name, {})
        for labels, value in values.items():
            into[labels] = into.get(labels, 0) + value


def _add_histograms(sums: dict[str, dict[str, Any]], more: Mapping[str, Mapping[str, Any]]) -> None:
    for name, histogram in more.items():
        into = sums[name]
        into["counts"] = [one + other for one, other in zip(into["counts"], histogram["counts"], strict=True)]
        into["total_ns"] += histogram["total_ns"]
