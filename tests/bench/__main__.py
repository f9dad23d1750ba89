"""`python -m tests.bench`: see README.md."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tests.bench import picture, report, run, scaling, servers, workloads
from tests.bench.extra import NotPossible
from tests.bench.run import say

DEFAULT_FILE = Path("build/bench/results.json")
EXTRAS = ("latency", "memory", "scaling")
SCALING_SERVERS = ("asgiws", "asgiws with --admin", "bare protocol")
"""Unless others are named: the floor shows what the kernel takes."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m tests.bench", description="asgiws beside its peers, in one run.")
    add = made.add_argument
    add(
        "what",
        nargs="?",
        default="run",
        choices=("run", "scaling", "report", "publish"),
        help="measure all (the default), measure only what grows with the number of connections, print the tables of "
        "saved results, or put them into the READMEs",
    )
    add("--file", type=Path, default=DEFAULT_FILE, help="the results (default: %(default)s)")
    add("--quick", action="store_true", help="short rounds, and at most 1,000 connections")
    add(
        "--workloads",
        nargs="+",
        default=["*"],
        metavar="PATTERN",
        help="of: " + ", ".join([*workloads.BY_NAME, *EXTRAS]),
    )
    add("--servers", nargs="+", metavar="PATTERN", help="of: " + ", ".join(servers.BY_NAME))
    add("--rounds", type=int, help="how often each is measured")
    add("--seconds", type=float, help="about how long a round takes")
    return made  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; 2 for what cannot be done."""
    options = parser().parse_args(argv)
    if options.what == "run":
        return _measure(options, {})
    if options.what == "scaling":
        options.workloads = ["scaling"]
        return _measure(options, json.loads(options.file.read_text()) if options.file.exists() else {})
    if not options.file.exists():
        say(f"{options.file} does not exist: measure first, or name a file of results with --file")
        return 2
    results = json.loads(options.file.read_text())
    if options.what == "report":
        print(report.text(results))  # noqa: T201
    else:
        report.publish(results)
    return 0


def _measure(options: argparse.Namespace, results: dict[str, Any]) -> int:
    """Measure what was chosen, beside `results` if those are there already, save it and print it."""
    chosen = [server for server in servers.SERVERS if _matches(server.name, options.servers or ["*"])]
    missing = servers.missing_packages(chosen)
    if missing:
        say(f"not installed, left out: {', '.join(sorted(missing))}; pip install -e '.[bench]' installs all")
    chosen = [server for server in chosen if server.installed()]
    wanted = [workload for workload in workloads.WORKLOADS if _matches(workload.name, options.workloads)]
    extras = [name for name in EXTRAS if _matches(name, options.workloads)]
    if not chosen or not (wanted or extras):
        say("no server or no workload matches; --help lists them")
        return 2
    plan = run.QUICK if options.quick else run.FULL
    plan = dataclasses.replace(plan, rounds=options.rounds or plan.rounds, seconds=options.seconds or plan.seconds)
    results = results or run.run(plan, wanted, chosen, extras)
    if "scaling" in extras:
        few = chosen if options.servers else [server for server in chosen if server.name in SCALING_SERVERS]
        try:
            results["scaling"] = measured = scaling.run(scaling.QUICK if options.quick else scaling.FULL, few)
            results["failures"]["scaling"] = measured.pop("failures")
        except NotPossible as error:
            say(str(error))
    options.file.parent.mkdir(parents=True, exist_ok=True)
    options.file.write_text(json.dumps(results, indent=1) + "\n")
    options.file.with_suffix(".svg").write_text(picture.draw(results))
    print(report.text(results))  # noqa: T201
    return 0


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


if __name__ == "__main__":
    # As an exception, so that the servers are ended.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
