"""Tables and the picture, made from saved results and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.bench import picture
from tests.bench.servers import BY_NAME as SERVERS
from tests.bench.servers import other_loops
from tests.bench.targets import OURS, TARGETS, WHY_NOT, Figures, Target
from tests.bench.workloads import BY_NAME as WORKLOADS

FOLDER: Final = Path(__file__).parent
PUBLISHED: Final = FOLDER / "results.json"
PICTURE: Final = FOLDER / "bench.svg"

# Targets that the main README shows, in its words
_FRONT_PAGE: Final = {
    "echo-50": "echo of 32 bytes on 50 connections",
    "burst": "the same in bursts, 64 messages in flight",
    "broadcast-compressed": "a compressed message to 1,000 clients",
}

Results = Mapping[str, Any]


def text(results: Results) -> str:
    """Everything, as it is printed."""
    parts = [basis(results), targets_table(results), figures_table(results), latency_table(results),
             memory_table(results), scaling_table(results)]  # fmt: skip
    return "\n\n".join(part for part in [*parts, failures_list(results)] if part)


def published() -> dict[str, Any]:
    """The results that the documents show."""
    found: dict[str, Any] = json.loads(PUBLISHED.read_text())
    return found


def publish(results: Results) -> None:
    """Save the results beside the code, and make the picture and the documents from them."""
    from tests import docs  # it asks this module for its tables

    PUBLISHED.write_text(json.dumps(results, indent=1) + "\n")
    PICTURE.write_text(picture.draw(results))
    docs.main()


def front_page_ratios() -> str:
    """Return the three ratios of the main README."""
    figures = Figures(published())
    targets = {target.name: target for target in TARGETS}
    lines = []
    for name, work in _FRONT_PAGE.items():
        measured = targets[name].measure(figures)
        assert measured is not None
        lines.append(f"* {work}: **{measured.value:.1f}x less** than the best of them ({measured.beside})")
    return "\n".join(lines)


def figures_section() -> str:
    """Return what the README of the bench shows."""
    results = published()
    picture = f"![server CPU for each unit of work]({PICTURE.name})"
    parts = [basis(results), picture, targets_table(results), figures_table(results), latency_table(results),
             memory_table(results), scaling_table(results), failures_list(results)]  # fmt: skip
    return "\n\n".join(part for part in parts if part)


def basis(results: Results) -> str:
    """What the figures depend on."""
    machine, settings = results["machine"], results["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    module = "built" if results["c module"] else "not built"
    spread = Figures(results).spread()
    others = other_loops(results.get("loops", {}))
    return (
        f"Python {machine['python']}, {machine['system']}, {machine['processor']} with {machine['cores']} cores; "
        f"{versions}; the C module {module}. Medians of {settings['rounds']} interleaved rounds of about "
        f"{settings['seconds']:g} s"
        + (f"; they typically differ by {spread[0] - 1:.0%}, at worst by {spread[1] - 1:.0%}. " if spread else ". ")
        + f"Servers are on uvloop where nothing else is said{f' ({others})' if others else ''}, "
        "compression is off where nothing else is said."
    )


def targets_table(results: Results) -> str:
    """Each target with its measured value, whether it is met, and why not."""
    figures = Figures(results)
    rows = [["server CPU for each unit of work", "measured", "met"]]
    rows += [[target.claim, _measured(target, figures), _verdict(target, figures)] for target in TARGETS]
    return table(rows)


def _measured(target: Target, figures: Figures) -> str:
    measured = target.measure(figures)
    if measured is None:
        return "not measured"
    beside = f" ({measured.beside})" if measured.beside else ""
    return f"{measured.value:.2f}{target.unit}{beside}"


def _verdict(target: Target, figures: Figures) -> str:
    met = target.met(figures)
    if met is None:
        return ""
    if met:
        return "yes"
    why = [WHY_NOT[target.name](figures)] if target.name in WHY_NOT else []
    possible = target.possible(figures)
    if possible is not None:
        why.append(f"the bare protocol, which parses nothing, is at {possible:.2f}x")
    return "no" + (": " + "; ".join(why) if why else "")


def figures_table(results: Results) -> str:
    """For each workload our microseconds of CPU, and how many times as much the others take."""
    figures = Figures(results)
    names = [name for name in SERVERS if any(name in figures.servers(workload) for workload in results["cpu"])]
    if not names:
        return ""
    base = OURS if OURS in names else names[0]
    others = [name for name in names if name != base]
    rows = [["server CPU", f"{base}, us", *(f"{name}, x" for name in others)]]
    for workload in results["cpu"]:
        mine = figures.cpu(workload, base)
        row = [f"{WORKLOADS[workload].described}, a {WORKLOADS[workload].unit}", _number(mine)]
        rows.append(row + [_ratio(figures.cpu(workload, name), mine) for name in others])
        if any(figures.answer_bytes(workload, name) for name in names):
            sizes = [_number(figures.answer_bytes(workload, name)) for name in (base, *others)]
            rows.append([f"bytes of an answer of {WORKLOADS[workload].described}", *sizes])
    return table(rows)


def latency_table(results: Results) -> str:
    """Latency of each server at its own rate, as multiples of ours."""
    figures = Figures(results)
    names = list(results.get("latency", {}))
    if not names:
        return ""
    kinds = {
        "rate": "messages a second: half of one over the CPU of a message that comes alone",
        "p50": "p50, median of rounds",
        "p99": "p99, least of rounds",
        "p99.9": "p99.9, least of rounds",
        "pause": "longest pause of the loop, least of rounds",
    }
    rows = [["latency in an open loop, 50 connections, 32 B", names[0], *(f"{name}, x" for name in names[1:])]]
    for kind, title in kinds.items():
        mine = figures.latency(names[0], kind)
        shown = "1" if mine else ""
        rows.append([title, shown, *(_ratio(figures.latency(name, kind), mine) for name in names[1:])])
    return table(rows)


def memory_table(results: Results) -> str:
    """KiB (PSS) of an idle connection."""
    memory = results.get("memory", {})
    names = [name for name in SERVERS if any(name in row for row in memory.values())]
    if not names:
        return ""
    rows = [["KiB (PSS) for each idle connection", *names]]
    for title, row in memory.items():
        count, _, offer = title.partition(" ")
        offered = "with a browser's offer of compression" if offer == "browser" else "without an offer of compression"
        for state in ("idle", "after echo"):
            rows.append(
                [f"{int(count):,}, {offered}, {state}", *(_number(row.get(name, {}).get(state)) for name in names)]
            )
    return table(rows)


def failures_list(results: Results) -> str:
    """Who could not be measured, and what was seen."""
    lines = [f"* {where}, {name}: {what}" for where, row in results["failures"].items() for name, what in row.items()]
    return "\n".join(["Not measured:", "", *lines]) if lines else ""


def scaling_table(results: Results) -> str:
    """What `scaling` measured: multiples of the cost with one connection, and percents of a core."""
    scaling = results.get("scaling")
    if not scaling or not scaling["servers"]:
        return ""
    figures = scaling["servers"]
    first = next(iter(figures.values()))
    most = f"{scaling['connections']:,}"
    rows = [["scaling", *figures]]
    for in_flight, costs in first["cpu"].items():
        for count in costs:
            title = (
                f"CPU of a message, {int(count):,} connections in turn, {in_flight} in flight, x that of 1 connection"
            )
            rows.append([title, *(_ratio(row["cpu"][in_flight][count], row["cpu"][in_flight]["1"])
                                  for row in figures.values())])  # fmt: skip
    for kind, title in (("sweep", "between pings"), ("pings", "with a ping and a pong of each in 20 s")):
        if any(kind in row.get("idle", {}) for row in figures.values()):
            rows.append([f"{most} idle connections, {title}, % of a core",
                         *(_number(row.get("idle", {}).get(kind)) for row in figures.values())])  # fmt: skip
    rows.append([f"CPU of 50 connections beside {scaling['slow']} that do not read, x that without those",
                 *(_number(row.get("beside slow")) for row in figures.values())])  # fmt: skip
    return table(rows)


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, with its columns aligned so that it can be read as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ratio(value: float | None, base: float | None) -> str:
    return _number(value / base) if value is not None and base else ""
