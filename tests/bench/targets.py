"""What asgiws is held to, as a table over the results: each target gives its measured value, or None without one."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.bench.servers import BY_NAME, PEER

OURS: Final = "asgiws"
ASYNCIO: Final = "asgiws asyncio"
PYTHON: Final = "asgiws without C"
FLOOR: Final = "bare protocol"
IDLE_MOST_KIB: Final = 8.0
_MANY: Final = 10000

_UNMASKED_64K: Final = "unmasking 64 KiB in Python takes 51 us of CPU, in C 3 us"
_UNMASKED_1M: Final = "unmasking 1 MiB in Python takes 0.8 to 1.6 ms of CPU, in C 0.03 ms"

_ACCEPT: Final = "the accept is our own, to survive running out of descriptors (8 us), and 99 calls are left of it"
_COPIES: Final = (
    "besides the kernel's two, three copies: unmasking, joining the reads, and giving the application its own"
)

WHY_NOT: Final[Mapping[str, str]] = {
    "echo-50": "the loop and the kernel take two thirds of ours; six calls of Python are the rest",
    "echo-1m-text": _COPIES,
    "echo-1m-binary": _COPIES,
    "json-compressed": "deflating and inflating take 8 us of it in zlib, which the peers pay too",
    "handshake-granian": _ACCEPT,
    "handshake-uvicorn": _ACCEPT,
    "starlette-50": "Starlette's own calls are the same for all",
    "growth": "each connection's objects leave the caches between two of its messages",
    "echo-64k-text-python": _UNMASKED_64K,
    "echo-64k-binary-python": _UNMASKED_64K,
    "echo-1m-text-python": _UNMASKED_1M,
    "echo-1m-binary-python": _UNMASKED_1M,
}
"""By the name of a target: the measured reason why it is not met."""


class Figures:
    """Medians of the results."""

    def __init__(self, results: Mapping[str, Any]) -> None:
        self._results = results

    def cpu(self, workload: str, server: str) -> float | None:
        """Microseconds of server CPU for each unit of work."""
        samples = self._results.get("cpu", {}).get(workload, {}).get(server)
        return statistics.median(samples) if samples else None

    def servers(self, workload: str) -> list[str]:
        """Who was measured, in the order of the table."""
        return [name for name, samples in self._results.get("cpu", {}).get(workload, {}).items() if samples]

    def best_peer(self, workload: str, prefix: str = "") -> tuple[str, float] | None:
        """The ASGI server with the least CPU, among those whose name begins so."""
        peers = [name for name in self.servers(workload) if BY_NAME[name].kind == PEER and name.startswith(prefix)]
        costs = [(self.cpu(workload, name) or 0.0, name) for name in peers]
        return (min(costs)[1], min(costs)[0]) if costs else None

    def idle_kib(self, offer: str, state: str) -> float | None:
        """The most that an idle connection took, over all counts."""
        rows = [row for name, row in self._results.get("memory", {}).items() if name.endswith(offer)]
        found = [row[OURS][state] for row in rows if OURS in row]
        return max(found) if found else None

    def latency(self, server: str, what: str) -> float | None:
        """The median over rounds of a percentile, of the rate, or of the longest pause."""
        rounds = self._results.get("latency", {}).get(server)
        return statistics.median(one[what] for one in rounds) if rounds else None

    def growth(self, server: str) -> float | None:
        """How the cost of a message changes with the number of connections: the most over the least."""
        row = self._scaling(server)
        return max(max(costs.values()) / min(costs.values()) for costs in row["cpu"].values()) if row else None

    def scaling(self, *names: str) -> float | None:
        """Ours of the other figures of `python -m tests.bench scaling`."""
        found: Any = self._scaling(OURS)
        for name in names:
            found = (found or {}).get(name)
        return None if found is None else float(found)

    def _scaling(self, server: str) -> dict[str, Any] | None:
        """What was measured of a server with as many connections as the targets name, and not with fewer."""
        scaling = self._results.get("scaling", {"connections": 0})
        found: dict[str, Any] | None = scaling["servers"].get(server) if scaling["connections"] >= _MANY else None
        return found


Beside = Callable[[Figures], float | None]
"""What something of ours is compared with."""


@dataclass(frozen=True)
class Measured:
    """A value and what it was compared with."""

    value: float
    beside: str = ""


@dataclass(frozen=True)
class Target:
    """A claim: `measure` gives a value that is at least, or at most, `limit`."""

    name: str
    claim: str
    measure: Callable[[Figures], Measured | None]
    limit: float
    at_least: bool
    unit: str = "x"
    possible: Callable[[Figures], float | None] = lambda figures: None
    """What the bare protocol reaches in our place, which nothing that parses can exceed."""

    def met(self, figures: Figures) -> bool | None:
        """Whether it is; None when it was not measured."""
        measured = self.measure(figures)
        if measured is None:
            return None
        return measured.value >= self.limit if self.at_least else measured.value <= self.limit


def _ahead(
    name: str, claim: str, workload: str, factor: float, *, ours: str = OURS, prefix: str = "", than: str = ""
) -> Target:
    """At least `factor` times less CPU than the best peer, or than the best of those whose name begins so."""

    def measure(figures: Figures) -> Measured | None:
        mine, best = figures.cpu(workload, ours), figures.best_peer(workload, prefix)
        return Measured(best[1] / mine, best[0]) if mine and best else None

    def possible(figures: Figures) -> float | None:
        floor, best = figures.cpu(workload, FLOOR), figures.best_peer(workload, prefix)
        return best[1] / floor if floor and best else None

    words = "less" if factor == 1 else f">= {factor:g}x less"
    return Target(name, f"{claim}: {words} than {than or 'the best peer'}", measure, factor, True, possible=possible)


def _within(
    name: str, claim: str, workload: str, factor: float, beside: Beside, what: str, *, ours: str = OURS
) -> Target:
    """At most `factor` times the CPU of something else."""

    def measure(figures: Figures) -> Measured | None:
        mine, other = figures.cpu(workload, ours), beside(figures)
        return Measured(mine / other) if mine and other else None

    return Target(name, f"{claim}: <= {factor:g}x {what}", measure, factor, False)


def _best(workload: str) -> Beside:
    def give(figures: Figures) -> float | None:
        best = figures.best_peer(workload)
        return best[1] if best else None

    return give


def _of(workload: str, server: str) -> Beside:
    return lambda figures: figures.cpu(workload, server)


def _idle(name: str, claim: str, offer: str, state: str) -> Target:
    def measure(figures: Figures) -> Measured | None:
        value = figures.idle_kib(offer, state)
        return None if value is None else Measured(value)

    return Target(name, f"{claim}: <= {IDLE_MOST_KIB:g} KiB", measure, IDLE_MOST_KIB, False, " KiB")


def _scaling(name: str, claim: str, limit: float, unit: str, *names: str) -> Target:
    def measure(figures: Figures) -> Measured | None:
        value = figures.scaling(*names)
        return None if value is None else Measured(value)

    return Target(name, claim, measure, limit, False, unit)


def _growth(figures: Figures) -> Measured | None:
    ours, floor = figures.growth(OURS), figures.growth(FLOOR)
    return Measured(ours, f"{FLOOR} {floor:.2f}x" if floor else "") if ours else None


_LARGE: Final = (("echo-64k-text", "64 KiB text"), ("echo-64k-binary", "64 KiB binary"),
                 ("echo-1m-text", "1 MiB text"), ("echo-1m-binary", "1 MiB binary"))  # fmt: skip

TARGETS: Final = (
    _ahead("burst", "8 connections with 64 in flight, 32 B", "burst", 5),
    _ahead("echo-50", "50 connections, 32 B", "echo-50", 1.9),
    _within("echo-50-floor", "50 connections, 32 B", "echo-50", 1.5, _of("echo-50", FLOOR), FLOOR),
    _ahead("echo-1k-text", "50 connections, 1 KiB text", "echo-1k-text", 1.5),
    _ahead("echo-1k-binary", "50 connections, 1 KiB binary", "echo-1k-binary", 1.5),
    *(_ahead(name, f"echo {title}", name, 1) for name, title in _LARGE),
    *(_within(f"{name}-python", f"echo {title} without the C module", name, 2, _best(name), "the best peer",
              ours=PYTHON)
      for name, title in _LARGE),
    _within("broadcast", "broadcast to 1,000", "broadcast", 1.3, _of("broadcast", FLOOR), "a loop of transport.write"),
    _ahead("broadcast-compressed", "broadcast to 1,000, compressed", "broadcast-compressed", 2.3,
           than="the best peer that compresses"),
    _within("broadcast-compressed-own", "broadcast to 1,000, compressed", "broadcast-compressed", 1.1,
            _of("broadcast", OURS), "our own uncompressed"),
    _ahead("json-compressed", "echo 1 KiB JSON, compressed", "json-compressed", 1.5,
           than="the best peer that compresses"),
    _ahead("handshake-granian", "connect, accept, close", "handshake", 1.5, prefix="granian", than="granian"),
    _ahead("handshake-uvicorn", "connect, accept, close", "handshake", 4, prefix="uvicorn", than="uvicorn"),
    _idle("idle", "idle connection", "plain", "idle"),
    _idle("idle-echoed", "idle connection after an echo", "plain", "after echo"),
    _idle("idle-compression", "idle connection with compression negotiated", "browser", "idle"),
    _idle("idle-compression-echoed", "the same after an echo", "browser", "after echo"),
    _ahead("http-get", "GET hello, 50 kept connections", "http-get", 1),
    _ahead("starlette-50", "Starlette, 50 connections, 32 B", "starlette-50", 1.6, prefix="uvicorn", than="uvicorn"),
    _ahead("starlette-burst", "Starlette, 8 with 64 in flight", "starlette-burst", 1.6, prefix="uvicorn",
           than="uvicorn"),
    _ahead("burst-asyncio", "bursts on asyncio", "burst", 1, ours=ASYNCIO, than="the best peer on uvloop"),
    _ahead("broadcast-asyncio", "broadcast on asyncio", "broadcast", 1, ours=ASYNCIO, than="the best peer on uvloop"),
    Target("growth", "CPU of a message, most over least, 1 to 10,000 connections: <= 1.2x", _growth, 1.2, False),
    _scaling("sweep", "sweep of 10,000 idle connections: <= 1 % of a core", 1.0, " %", "idle", "sweep"),
    _scaling("slow", "CPU of the others beside 50 that do not read: <= 1.1x", 1.1, "x", "beside slow"),
)  # fmt: skip
