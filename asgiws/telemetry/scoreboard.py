"""The sum of what all workers report, in which no counter goes backwards.

A worker counts from zero. So the last report of one that has ended is added to what all ended ones have counted, and
the sum of that and of the living only grows, whoever comes and goes. All that is added is whole: a sum of floats
depends on their order, which the end of a worker changes. What goes up and down is that of the living. Pure: who calls
it knows the processes and the time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from asgiws._version import __version__
from asgiws.telemetry.counters import BOUNDS, Counters, Counts, Levels

__all__ = ["RESTART_REASONS", "WORKER_STATES", "Report", "Scoreboard", "Status", "Worker"]

WORKER_STATES: Final = ("starting", "serving", "stopping")
RESTART_REASONS: Final = ("died", "hung", "recycled", "reload")

Report = Mapping[str, Any]
"""What a worker says of itself, see `asgiws.server.stats`."""
Status = dict[str, Any]
"""What `Scoreboard.status` gives; all of it is plain data, as JSON has it."""


class Worker(NamedTuple):
    """A process as whoever started it sees it."""

    key: Hashable
    """Under which its reports were taken."""
    number: int
    pid: int
    state: str
    """One of WORKER_STATES."""
    late_s: float = 0.0
    """How long its next report is overdue: a worker that blocks cannot tell that it does."""


class Scoreboard:
    """Reports by worker, and the totals of the workers that have ended."""

    def __init__(self) -> None:
        nothing = Levels()
        # All names are there from the beginning: a series that appears late hides its first increase.
        self._ended: Counts = {name: dict(values) for name, values in Counters().as_counts(nothing).items()}
        self._ended_histograms = Counters().as_histograms()
        self._no_levels = nothing.as_levels()
        self._living: dict[Hashable, Report] = {}
        self.restarts: Counter[str] = Counter()
        """Workers that were started in the place of another, by the reason."""

    def update(self, worker: Hashable, report: Report) -> None:
        """Take a worker's newest report."""
        self._living[worker] = report

    def end(self, worker: Hashable) -> None:
        """Keep what a worker has counted, which has ended."""
        report = self._living.pop(worker, None)
        if report is not None:
            _add_counts(self._ended, report["counts"])
            _add_histograms(self._ended_histograms, report["histograms"])

    def status(self, workers: Sequence[Worker], *, ready: bool, draining: bool) -> Status:
        """Give the sums, and what is known of each worker."""
        levels = self._levels()
        levels["workers"] = {name: sum(worker.state == name for worker in workers) for name in WORKER_STATES}
        return {
            "version": __version__,
            "ready": ready,
            "draining": draining,
            "workers": [self._row(worker) for worker in workers],
            "counts": self._counts(),
            "histograms": self._histograms(),
            "levels": levels,
            "connections": list(self._connections()),
        }

    def _row(self, worker: Worker) -> dict[str, Any]:
        """Give one worker; its numbers are 0 before its first report."""
        report = self._living.get(worker.key)
        row: dict[str, Any] = {"number": worker.number, "pid": worker.pid, "state": worker.state}
        if report is None:
            return row | {"up_s": 0.0, "lag_s": 0.0, "memory_bytes": 0, "connections": {}, "messages": {}}
        return row | {
            "up_s": report["up_s"],
            "lag_s": max(report["lag_s"], worker.late_s),
            "memory_bytes": report["memory_bytes"],
            "connections": dict(report["levels"]["connections"]),
            "messages": dict(report["counts"]["messages"]),
        }

    def _counts(self) -> Counts:
        """Give the sums of all workers that have ever been."""
        counts = {name: dict(values) for name, values in self._ended.items()}
        for report in self._living.values():
            _add_counts(counts, report["counts"])
        counts["restarts"] = {reason: self.restarts[reason] for reason in RESTART_REASONS}
        return counts

    def _histograms(self) -> dict[str, dict[str, Any]]:
        """Give the sums of all histograms, each with its bounds, and with its total in seconds."""
        sums: dict[str, dict[str, Any]] = {
            name: {"counts": [0] * (len(bounds) + 1), "total_ns": 0} for name, bounds in BOUNDS.items()
        }
        for part in (self._ended_histograms, *(report["histograms"] for report in self._living.values())):
            _add_histograms(sums, part)
        return {
            name: {"bounds": bounds, "counts": sums[name]["counts"], "total": sums[name]["total_ns"] / 1e9}
            for name, bounds in BOUNDS.items()
        }

    def _levels(self) -> Counts:
        """Give the sums of the workers that live."""
        levels = {name: dict(values) for name, values in self._no_levels.items()}
        for report in self._living.values():
            _add_counts(levels, report["levels"])
        return levels

    def _connections(self) -> Iterator[dict[str, Any]]:
        """Give the rows of all workers, each with an `id` that names it: process and number."""
        for report in self._living.values():
            for row in report["connections"]:
                yield {"id": f"{report['pid']}-{row['number']}", **row}


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
