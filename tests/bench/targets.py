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
IDLE_MOST_KIB: Final = 6.5
_MANY: Final = 10000


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
        """Over rounds, the median of rate and p50, and the least of what is rare: a busy machine only adds to that."""
        rounds = self._results.get("latency", {}).get(server)
        if not rounds:
            return None
        found: list[float] = [one[what] for one in rounds]
        return statistics.median(found) if what in ("rate", "p50") else min(found)

    def growth(self, server: str) -> dict[str, float]:
        """By messages in flight: the cost of a message with so many connections that it is highest, over the lowest.

        Empty when it was not measured.
        """
        row = self._scaling(server)
        return {count: max(costs.values()) / min(costs.values()) for count, costs in row["cpu"].items()} if row else {}

    def spread(self) -> tuple[float, float] | None:
        """How far the rounds of a figure lie apart, as the most over the least: the median and the most of figures."""
        found = [
            max(samples) / min(samples) for row in self._results.get("cpu", {}).values() for samples in row.values()
        ]
        return (statistics.median(found), max(found)) if found else None

    def answer_bytes(self, workload: str, server: str) -> float | None:
        """How long the answers are that a server compresses."""
        found: float | None = self._results.get("bytes", {}).get(workload, {}).get(server)
        return found

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


Beside = Callable[[Figures], tuple[str, float] | None]
"""What something of ours is compared with: its name, if the claim does not say it, and its figure."""


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
        return Measured(mine / other[1], other[0]) if mine and other else None

    return Target(name, f"{claim}: <= {factor:g}x {what}", measure, factor, False)


def _best(workload: str) -> Beside:
    return lambda figures: figures.best_peer(workload)


def _of(workload: str, server: str) -> Beside:
    def give(figures: Figures) -> tuple[str, float] | None:
        found = figures.cpu(workload, server)
        return ("", found) if found else None

    return give


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
    if not ours:
        return None
    worst = max(ours, key=lambda count: ours[count])
    return Measured(ours[worst], f"{FLOOR} {floor[worst]:.2f}x" if worst in floor else "")


def _sweep(figures: Figures) -> Measured | None:
    value, pings = figures.scaling("idle", "sweep"), figures.scaling("idle", "pings")
    if value is None:
        return None
    return Measured(value, f"with a ping and a pong of each in 20 s {pings:.2f} %" if pings else "")


Why = Callable[[Figures], str]
"""A reason, with the figures of the same results."""


def _beyond_floor(workload: str, rest: str, floor_of: str = "") -> Why:
    """What of ours is the loop's and the kernel's, and what the rest is; `floor_of` another workload if need be."""

    def say(figures: Figures) -> str:
        mine, floor = figures.cpu(workload, OURS) or 0.0, figures.cpu(floor_of or workload, FLOOR) or 0.0
        return f"{floor:.1f} of our {mine:.1f} us are the loop's and the kernel's, the rest is {rest}"

    return say


def _outside_python(workload: str) -> Why:
    """What of a GET is nobody's choice, and what the peer that takes less does without."""
    beyond = _beyond_floor(
        workload,
        "62,000 user instructions of ours and 26,000 of the application with its scope and task",
        floor_of="http-get",
    )

    def say(figures: Figures) -> str:
        best = figures.best_peer(workload)
        name = best[0] if best else ""
        return f"{beyond(figures)}; {name} does its part outside Python{_DOES_WITHOUT.get(name, '')}"

    return say


def _compressing(figures: Figures) -> str:
    mine, plain = figures.cpu("json-compressed", OURS) or 0.0, figures.cpu("echo-1k-text", OURS) or 0.0
    return f"{mine - plain:.1f} of our {mine:.1f} us are compressing and inflating, which every server does in C"


def _unmasking(workload: str) -> Why:
    def say(figures: Figures) -> str:
        more = (figures.cpu(workload, PYTHON) or 0.0) - (figures.cpu(workload, OURS) or 0.0)
        return f"unmasking in Python takes {more:.0f} us more than in C"

    return say


def _starlette(figures: Figures) -> str:
    best = figures.best_peer("echo-50", "uvicorn")
    if best is None:
        return ""
    mine, theirs = (figures.cpu("starlette-50", name) or 0.0 for name in (OURS, best[0]))
    plain, plain_theirs = figures.cpu("echo-50", OURS) or 0.0, best[1]
    return (
        f"without Starlette it is {plain_theirs / plain:.2f}x; it adds {mine - plain:.1f} us to ours and "
        f"{theirs - plain_theirs:.1f} us to {best[0]}"
    )


def _growing(figures: Figures) -> str:
    return "what holds nothing for a connection, the bare protocol, grows too: it is the loop's and the kernel's"


def _busy(figures: Figures) -> str:
    spread = figures.spread()
    differ = f"rounds of one figure differ by {(spread[0] - 1) * 100:.0f}% in this run; " if spread else ""
    return f"{differ}alone on a quiet machine it took 0.90 %"


_ACCEPT: Final = "88 calls of Python, and an accept of our own (8 us), which survives running out of descriptors"

_DOES_WITHOUT: Final = {
    "fastpysgi": ", without a check of the application's fields, a disconnect for the application, or timeouts",
}
_BINARY: Final = "a pass that unmasks (3 us for 64 KiB), a copy behind the header up to 128 KiB, 11 calls of Python"
_TEXT: Final = "passes that unmask, decode and encode, a copy behind the header up to 128 KiB, 10 calls of Python"

WHY_NOT: Final[Mapping[str, Why]] = {
    "burst": _beyond_floor("burst", "six calls of Python; a quarter of the user instructions are the application's"),
    "echo-50": _beyond_floor("echo-50", "six calls of Python"),
    "echo-50-floor": _beyond_floor("echo-50", "six calls of Python"),
    **{name: _beyond_floor(name, "six calls of Python, and unmasking") for name in ("echo-1k-text", "echo-1k-binary")},
    **{name: _beyond_floor(name, _BINARY) for name in ("echo-64k-binary", "echo-1m-binary")},
    **{name: _beyond_floor(name, _TEXT) for name in ("echo-64k-text", "echo-1m-text", "echo-64k-chinese")},
    "broadcast": _beyond_floor("broadcast", "an await of send for each client"),
    "broadcast-compressed": _beyond_floor("broadcast-compressed", "an await of send for each client", "broadcast"),
    "json-compressed": _compressing,
    "handshake-granian": _beyond_floor("handshake", _ACCEPT),
    "handshake-uvicorn": _beyond_floor("handshake", _ACCEPT),
    "handshake-reset": _beyond_floor("handshake-reset", _ACCEPT),
    **{name: _outside_python(name) for name in ("http-get", "http-get-varied")},
    "starlette-50": _starlette,
    "growth": _growing,
    "sweep": _busy,
    **{f"{name}-python": _unmasking(name) for name in ("echo-64k-text", "echo-64k-binary", "echo-1m-text",
                                                       "echo-1m-binary")},
}  # fmt: skip
"""By the name of a target: the measured reason why it is not met. It is shown only where that is so."""


_LARGE: Final = (("echo-64k-text", "64 KiB text"), ("echo-64k-binary", "64 KiB binary"),
                 ("echo-1m-text", "1 MiB text"), ("echo-1m-binary", "1 MiB binary"))  # fmt: skip

TARGETS: Final = (
    _ahead("burst", "8 connections with 64 in flight, 32 B", "burst", 5),
    _ahead("echo-50", "50 connections, 32 B", "echo-50", 1.9),
    _within("echo-50-floor", "50 connections, 32 B", "echo-50", 1.5, _of("echo-50", FLOOR), FLOOR),
    _ahead("echo-1k-text", "50 connections, 1 KiB text", "echo-1k-text", 1.5),
    _ahead("echo-1k-binary", "50 connections, 1 KiB binary", "echo-1k-binary", 1.5),
    *(_ahead(name, f"echo {title}", name, 1) for name, title in _LARGE),
    _ahead("echo-64k-chinese", "echo 64 KiB Chinese text", "echo-64k-chinese", 1),
    *(_within(f"{name}-python", f"echo {title} without the C module", name, 2, _best(name), "the best peer",
              ours=PYTHON)
      for name, title in _LARGE),
    _within("broadcast", "broadcast to 1,000", "broadcast", 1.3, _of("broadcast", FLOOR), "a loop of transport.write"),
    _ahead("broadcast-compressed", "broadcast to 1,000, compressed", "broadcast-compressed", 2.3,
           than="the best peer that compresses"),
    _within("broadcast-compressed-own", "broadcast to 1,000, compressed", "broadcast-compressed", 1.1,
            _of("broadcast", OURS), "our own uncompressed"),
    _ahead("json-compressed", "echo 1 KiB JSON, compressed", "json-compressed", 1.8,
           than="the best peer that compresses"),
    _ahead("json-64k-compressed", "echo 64 KiB JSON, compressed", "json-64k-compressed", 2.5,
           than="the best peer that compresses"),
    _ahead("handshake-granian", "connect, accept, close", "handshake", 1.5, prefix="granian", than="granian"),
    _ahead("handshake-uvicorn", "connect, accept, close", "handshake", 4, prefix="uvicorn", than="uvicorn"),
    _ahead("handshake-reset", "connect, accept, reset by the client", "handshake-reset", 1),
    _idle("idle", "idle connection", "plain", "idle"),
    _idle("idle-echoed", "idle connection after an echo of 100 B", "plain", "after echo"),
    _idle("idle-compression", "idle connection with compression negotiated", "browser", "idle"),
    _idle("idle-compression-echoed", "the same after a compressed echo of 100 B", "browser", "after echo"),
    _ahead("http-get", "GET hello, 50 kept connections", "http-get", 1),
    _ahead("http-get-varied", "GET of 100 clients with a cookie and a query each", "http-get-varied", 1),
    _ahead("starlette-50", "Starlette, 50 connections, 32 B", "starlette-50", 1.6, prefix="uvicorn", than="uvicorn"),
    _ahead("starlette-burst", "Starlette, 8 with 64 in flight", "starlette-burst", 1.6, prefix="uvicorn",
           than="uvicorn"),
    _ahead("burst-asyncio", "bursts on asyncio", "burst", 1, ours=ASYNCIO, than="the best peer on uvloop"),
    _ahead("broadcast-asyncio", "broadcast on asyncio", "broadcast", 1, ours=ASYNCIO, than="the best peer on uvloop"),
    Target("growth", "CPU of a message, most over least, 1 to 10,000 connections: <= 1.2x", _growth, 1.2, False),
    Target("sweep", "sweep of 10,000 idle connections: <= 1 % of a core", _sweep, 1.0, False, " %"),
    _scaling("slow", "CPU of the others beside 50 that do not read: <= 1.1x", 1.1, "x", "beside slow"),
)  # fmt: skip
