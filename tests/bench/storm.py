"""`python -m tests.bench.storm`: thousands of clients drop and come back at once, while others stay and talk.

The application looks up a session for 50 ms before it accepts. Each server is also measured with an application that
accepts at once and with nobody else connected: that is what accepting alone needs.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tests.bench import machine, report
from tests.bench.apps_storm import AT_ONCE, LOOKUP_S
from tests.bench.driver import close_all, open_websockets
from tests.bench.extra import NotPossible
from tests.bench.run import FAILURES, described, say
from tests.bench.servers import APPS, BY_NAME, Running, Server, missing_packages
from tests.bench.storm_clients import Crowd, Outcome, Staying

SAVED: Final = Path(__file__).parent / "storm.json"
_MOST_S: Final = 20.0
_EVERY_S: Final = 0.1
_OPENING: Final = 2000
"""At a time with the application, which takes 50 ms: 40,000 a second, far more than are accepted."""
_QUEUE: Final = 4096
"""Connections that wait in the kernel, as Linux allows without a setting: more would try again after a second."""
ECHO_MOST_S: Final = 0.05
BACK_MOST: Final = 1.2
"""Times what accepting alone needs."""
OURS: Final = ("asgiws", f"asgiws --max-opening {_OPENING}")

__all__ = ["CONTESTANTS", "LOOKUP_S", "published_table", "run", "table"]

APPS["storm"] = "tests.bench.apps_storm:storm"


def _with(name: str, *options: str, called: str = "") -> Server:
    server = BY_NAME[name]
    return replace(server, name=called or server.name, command=(*server.command, "--backlog", str(_QUEUE), *options))


# No pings: the clients are idle for long, and do not answer them.
CONTESTANTS: Final = (
    _with("asgiws", "--ping-interval", "0"),
    _with("asgiws", "--ping-interval", "0", "--max-opening", str(_OPENING), called=OURS[1]),
    _with("uvicorn websockets-sansio", "--ws-ping-interval", "86400"),
    _with("granian"),
    _with("hypercorn"),
)


def run(clients: int, stay: int, storms: int, servers: Sequence[Server] = CONTESTANTS) -> dict[str, Any]:
    """Measure servers one after the other; return what is saved."""
    files = 2 * clients + stay + 1000  # a server may learn late that the old ones have gone
    if not machine.allow_files(files):
        raise NotPossible(f"{clients} clients need a limit of {files} open files (ulimit -Hn)")
    found: dict[str, Any] = {}
    with machine.pin(machine.driver_core()):
        for server in servers:
            if missing := missing_packages([server]):
                found[server.name] = {"failure": f"not installed: {', '.join(sorted(missing))}"}
                continue
            try:
                found[server.name] = _measure(server, clients, stay, storms)
            except FAILURES as error:
                found[server.name] = {"failure": described(error)}
            say(f"{server.name}: {found[server.name]}")
    versions = {server.name: server.version for server in servers if server.installed()}
    return {
        "machine": machine.describe(), "versions": versions, "clients": clients, "stay": stay, "storms": storms,
        "servers": found,
    }  # fmt: skip


def _measure(server: Server, clients: int, stay: int, storms: int) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        running = Running(server, "storm")
        stack.callback(running.stop)
        alone = _storms(running, AT_ONCE, clients, 0, storms)
        during = _storms(running, "/", clients, stay, storms)
    echoes = [sorted(each.echoes_s) for each in during]
    return {
        "alone_s": statistics.median(each.back_s for each in alone),
        "back_s": statistics.median(each.back_s for each in during),
        "cpu_s": statistics.median(each.cpu_s for each in during),
        "alone_cpu_s": statistics.median(each.cpu_s for each in alone),
        "refused": max(each.refused for each in during),
        "missing": max(each.missing for each in during),
        "echo_p99_s": statistics.median(each[int(len(each) * 0.99)] for each in echoes),
        "echo_max_s": max(each[-1] for each in echoes),
        "echoes": min(map(len, echoes)),
        "client_pause_s": max(each.pause_s for each in during),
    }


def _storms(running: Running, path: str, clients: int, stay: int, storms: int) -> list[Outcome]:
    """Open all clients, and let them drop and come back some times."""
    staying_clients = open_websockets(running.port, stay, path)
    staying, crowd = Staying(staying_clients, _EVERY_S), Crowd(running.port, path, clients)
    outcomes = []
    gc.disable()
    try:
        for _ in range(storms + 1):
            before_s = machine.cpu_s(running.pids)
            outcomes.append(crowd.storm(staying, _MOST_S))
            outcomes[-1].cpu_s = machine.cpu_s(running.pids) - before_s
        return outcomes[1:]
    finally:
        gc.enable()
        crowd.close()
        staying.close()
        close_all(staying_clients)


# ---- tables


def table(results: Mapping[str, Any]) -> str:
    """Return the results as a Markdown table, with the targets of asgiws."""
    rows = [
        ["", "all back", "accepting alone", "ratio", "server CPU", "refused", "not back", "echo p99", "longest echo"]
    ]
    for name, row in results["servers"].items():
        if "failure" in row:
            rows.append([name, row["failure"], *[""] * 7])
            continue
        rows.append([
            name,
            f"{row['back_s']:.2f} s",
            f"{row['alone_s']:.2f} s",
            f"{row['back_s'] / row['alone_s']:.2f}",
            f"{row['cpu_s']:.2f} s ({row['alone_cpu_s']:.2f})",
            f"{row['refused']:,}",
            f"{row['missing']:,}",
            f"{row['echo_p99_s'] * 1e3:.0f} ms",
            f"{row['echo_max_s'] * 1e3:.0f} ms",
        ])  # fmt: skip
    made, versions = results["machine"], ", ".join(f"{name} {version}" for name, version in results["versions"].items()
                                                   if version != "this tree")  # fmt: skip
    basis = (
        f"{results['clients']:,} clients, {results['stay']} sockets that stay; medians of {results['storms']} storms. "
        f"Python {made['python']}, {made['system']}, {made['processor']} with {made['cores']} cores; {versions}."
    )
    return "\n\n".join([basis, report.table(rows), targets(results)])


def targets(results: Mapping[str, Any]) -> str:
    """Return what asgiws is held to, and whether it is met."""
    lines = []
    for name in OURS:
        row = results["servers"].get(name, {"failure": "not measured"})
        if "failure" in row:
            continue
        ratio, p99_s = row["back_s"] / row["alone_s"], row["echo_p99_s"]
        for claim, met in (
            (f"echo p99 below {ECHO_MOST_S * 1e3:g} ms: {p99_s * 1e3:.0f} ms", p99_s < ECHO_MOST_S),
            (f"all back within {BACK_MOST:g} times what accepting alone needs: {ratio:.2f}", ratio <= BACK_MOST),
            (f"nobody is refused while there is room: {row['refused']}", not row["refused"] + row["missing"]),
        ):
            lines.append(f"* {name}, {claim}: {'met' if met else '**not met**'}")
    return "\n".join(lines)


def published_table() -> str:
    """Return what the README of the bench shows."""
    return table(json.loads(SAVED.read_text()))


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.storm", description=__doc__)
    parser.add_argument("--clients", type=int, default=4000, help="that drop and come back (default: %(default)s)")
    parser.add_argument("--stay", type=int, default=200, help="sockets that stay (default: %(default)s)")
    parser.add_argument("--storms", type=int, default=3, help="for each server and application (default: %(default)s)")
    parser.add_argument("--save", action="store_true", help="write the results to tests/bench/storm.json")
    options = parser.parse_args()
    try:
        results = run(options.clients, options.stay, options.storms)
    except NotPossible as error:
        say(str(error))
        return 2
    if options.save:
        SAVED.write_text(json.dumps(results, indent=1) + "\n")
    say(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
