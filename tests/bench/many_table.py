"""The tables of `tests.bench.many`, made from its saved results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.bench import report

SAVED: Final = Path(__file__).with_name("many.json")
_MIB: Final = 1024 * 1024


def published_table() -> str:
    """Return what the README of the bench shows."""
    return table(json.loads(SAVED.read_text()))


def table(results: Mapping[str, Any]) -> str:
    """Return the results as Markdown: asgiws with all sockets, and all servers in the same memory."""
    made, settings = results["machine"], results["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    basis = (
        f"{settings['sockets']:,} sockets, {settings['workers']} workers and {settings['workers']} processes of "
        f"clients; Python {made['python']}, {made['system']}, {made['processor']} with {made['cores']} cores, of which "
        f"other programs took up to {_most_of_others(results):.1f} meanwhile; {versions}."
    )
    return "\n\n".join([basis, _ours(results), _in_the_same_memory(results)])


def _ours(results: Mapping[str, Any]) -> str:
    one, floor, settings = results["asgiws"], results["floor"], results["settings"]
    restart = one["restart"]
    rows = [
        [f"asgiws, {one['sockets']:,} sockets", ""],
        ["memory", f"{one['taken_bytes'] / _MIB:,.0f} MiB, {_socket_kib(one)} KiB for each socket, "
                   "which subscribes to a topic"],
        ["all open after", f"{one['opened_s']:.0f} s"],
        [f"{one['idle_s']:.0f} s of nothing but pings", f"{_idle_cores(one)}, {_pings(one)} pings and pongs a second, "
                                                        f"{one['lost']:,} lost"],
        ["echo of 32 B beside them", _echo(one)],
        [f"a message of {settings['message_bytes']} B to all", _broadcast(one) + f", {one['encodings']:g} encodings"],
        ["the same with bare loops of `transport.write`", _broadcast(floor)],
        [f"rolling restart, drained over {settings['spread_s']} s",
         f"{restart['returned']:,} closed with 1012, {restart['open']:,} open after {restart['back_s']:.0f} s, "
         f"{restart['lost']:,} lost, {restart['refused']:,} refused"],
        ["echo of 32 B after it", _echo(restart)],
    ]  # fmt: skip
    return report.table(rows)


def _in_the_same_memory(results: Mapping[str, Any]) -> str:
    rows = [[
        "in the same memory", "sockets", "MiB in all", "without sockets", "KiB a socket", "CPU of pings",
        "pings a second", "CPU us a ping", "echo beside them",
    ]]  # fmt: skip
    for name, one in (("asgiws", results["asgiws"]), *results["peers"].items()):
        if "failure" in one:
            rows.append([name, one["failure"], *[""] * 7])
            continue
        rows.append([
            name, f"{one['sockets']:,}", f"{one['taken_bytes'] / _MIB:,.0f}", f"{one['empty_bytes'] / _MIB:,.0f}",
            _socket_kib(one), _idle_cores(one), _pings(one),
            f"{one['idle_cpu_s'] / one['pings'] * 1e6:.0f}" if one["pings"] else "", _echo(one),
        ])  # fmt: skip
    return report.table(rows)


def _most_of_others(results: Mapping[str, Any]) -> float:
    """Return the cores that programs which are not measured took while the sockets of a server were idle."""
    measured = [one for one in (results["asgiws"], *results["peers"].values()) if "failure" not in one]
    return float(max(one["others_cpu_s"] / one["idle_s"] for one in measured))


def _socket_kib(one: Mapping[str, Any]) -> str:
    return f"{(one['taken_bytes'] - one['empty_bytes']) / one['sockets'] / 1024:.2f}"


def _idle_cores(one: Mapping[str, Any]) -> str:
    return f"{one['idle_cpu_s'] / one['idle_s']:.1%} of a core"


def _pings(one: Mapping[str, Any]) -> str:
    return f"{one['pings'] / one['idle_s']:,.0f}"


def _echo(one: Mapping[str, Any]) -> str:
    return f"p50 {one['echo']['p50_s'] * 1e3:.2f} ms, p99 {one['echo']['p99_s'] * 1e3:.2f} ms"


def _broadcast(one: Mapping[str, Any]) -> str:
    return f"the last has it after {one['all_have_it_s']:.2f} s, {one['delivery_s'] * 1e6:.1f} us of CPU for each"
