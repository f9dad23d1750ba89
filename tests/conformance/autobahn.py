"""Run the Autobahn test suite's fuzzing client against asgiws: `python -m tests.conformance.autobahn`.

For each event loop and each compression mode it starts a server, runs the selected cases group by group (one `wstest`
each, so that a run that goes wrong costs one group), compares each outcome with `expected.json`, and prints counts and
differences. The reports stay in `--report`.

Exit status: 0 all as expected, 1 differences, 2 wrong arguments, 77 the suite cannot be run here.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.conformance import results, server, suite
from tests.conformance.results import Difference, Outcome

__all__ = ["Group", "bounded_groups", "main", "run_groups"]

NOT_RUN: Final = 77
"""The exit status by which automake's test drivers know a skipped test."""

COMPRESSED_SECTIONS: Final = ("12", "13")
BOUNDED_SECTIONS: Final = ("1", "2", "3", "4", "5", "6", "7", "10")
BOUNDED_COMPRESSED_CASES: Final = re.compile(r"1[23]\.\d+\.(1|7|11)")
"""Of each kind of data and of each offer: messages of 16 B, of 16 KiB, and of 8 KiB in fragments of 256 B."""
RACING_CASES: Final = ("3.4", "4.1.5", "4.2.5")
"""These are sent byte by byte, so that what is answered before a violation depends on how the bytes are split."""
RACING_REPETITIONS: Final = 100
RACING_BOUNDED_REPETITIONS: Final = 20

GROUP_TIMEOUT_S: Final = 120
CASE_TIMEOUT_S: Final = 60
"""An average that a group may take per case; on two idle cores of 2026 the slowest (12.2.15) takes 13 s."""


class Group(NamedTuple):
    """Cases that one `wstest` runs, each `repetitions` times."""

    name: str
    cases: Sequence[str]
    repetitions: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and give its exit status."""
    expected = results.load_expected()
    options = _parse_arguments(argv, expected)
    report = options.report.resolve()
    report.mkdir(parents=True, exist_ok=True)
    try:
        source = suite.find_suite(report, docker=True)
    except suite.SuiteError as error:
        _say(f"Autobahn was NOT run: {error}")
        return NOT_RUN
    _say(f"Autobahn test suite {suite.VERSION}: {source.description}")
    seen: set[tuple[str, Outcome]] = set()
    differences: list[Difference] = []
    for loop, compression in itertools.product(options.loop, options.compression):
        found, outcomes = run_groups(source, options.groups, loop, compression, report)
        differences += found
        seen |= outcomes
    _say(f"{len(differences)} differences" if differences else "all as expected")
    if options.update:
        try:
            results.save_expected(seen)
        except ValueError as error:
            _say(f"{results.EXPECTED} stays as it is: {error}")
        else:
            _say(f"wrote {results.EXPECTED}")
    return 1 if differences else 0


def run_groups(
    source: suite.Suite, groups: Sequence[Group], loop: str, compression: str, report: Path
) -> tuple[list[Difference], set[tuple[str, Outcome]]]:
    """Run groups of cases against one server and print them; give what is not as expected, and each case's outcome."""
    if compression == "off":  # there, a declined offer shows as UNIMPLEMENTED
        groups = [group for group in groups if not group.name.startswith(COMPRESSED_SECTIONS)]
    folder = report / f"{loop}-{compression}"
    differences: list[Difference] = []
    seen: set[tuple[str, Outcome]] = set()
    total: Counter[str] = Counter()
    try:
        with server.EchoServer(server.server_command(loop, compression), folder / "server.log") as running:
            for group in groups:
                found, outcomes = _run_group(source, group, running.port, folder / group.name, f"{loop}, {compression}")
                differences += found
                total += results.count(outcomes)
                for cases in outcomes.values():
                    seen.update(cases.items())
                running.check_running()
    except server.ServerError as error:
        differences.append(Difference(f"{loop}, {compression}: {error}"))
        _say(differences[-1].claim)
    _say(f"{loop}, {compression}: {_describe(total)}, {len(differences)} different")
    return differences, seen


def bounded_groups(cases: Iterable[str]) -> list[Group]:
    """Give the part for every push: all of the protocol's cases, a few compressed ones, the racing ones repeated."""
    plain = [case for case in cases if case.split(".")[0] in BOUNDED_SECTIONS]
    compressed = [case for case in cases if BOUNDED_COMPRESSED_CASES.fullmatch(case)]
    return [
        *_groups(plain),
        Group("racing", RACING_CASES, RACING_BOUNDED_REPETITIONS),
        *(Group(name, [case for case in compressed if case.startswith(f"{name}.")], 1) for name in COMPRESSED_SECTIONS),
    ]


def _run_group(
    source: suite.Suite, group: Group, port: int, folder: Path, title: str
) -> tuple[list[Difference], results.Outcomes]:
    started = time.monotonic()
    agents = [f"asgiws {number}" for number in range(1, group.repetitions + 1)]
    timeout_s = GROUP_TIMEOUT_S + CASE_TIMEOUT_S * len(group.cases) * group.repetitions
    fault = suite.run_cases(source, port, group.cases, agents=agents, folder=folder, timeout_s=timeout_s)
    outcomes = results.load_outcomes(folder)
    differences = list(results.compare(results.load_expected(), outcomes, group.cases, agents, folder))
    if fault:
        differences.append(Difference(fault))
    counts = _describe(results.count(outcomes))
    _say(f"{title}: {group.name}: {counts}, {len(differences)} different, {time.monotonic() - started:.1f} s")
    for claim, details in differences:
        _say(textwrap.indent(claim, "    "))
        if details:
            _say(textwrap.indent(details, "        "))
    return differences, outcomes


def _groups(cases: Iterable[str]) -> Iterator[Group]:
    """Split cases by section, and the long sections 12 and 13 by subsection."""

    def name(case: str) -> str:
        section, subsection = case.split(".")[:2]
        return f"{section}.{subsection}" if section in COMPRESSED_SECTIONS else section

    for key, members in itertools.groupby(sorted(cases, key=results.sort_key), name):
        yield Group(key, list(members), 1)


def _parse_arguments(argv: Sequence[str] | None, expected: Mapping[str, Outcome]) -> argparse.Namespace:
    """Parse the command line; in the result, loop and compression are tuples, and `groups` is what to run."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.autobahn", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--section", nargs="+", default=[], metavar="S", help="sections to run: 5, 12.1 or '12.1.*'")
    add("--cases", nargs="+", default=[], metavar="C", help="single cases to run: 3.4 4.1.5")
    add("--bounded", action="store_true", help="run the part for every push: 1 to 7, 10, some of 12 and 13")
    add("--loop", choices=(*server.LOOPS, "all"), default="all", help="event loop (default: all)")
    add("--compression", choices=(*server.COMPRESSIONS, "all"), default="all", help="mode (default: all)")
    add("--repeat", type=int, default=1, metavar="N", help="run each case N times (default: 1)")
    add("--report", type=Path, default=Path("build/autobahn"), metavar="DIR", help="default: build/autobahn")
    add("--update", action="store_true", help="write what was seen to expected.json; refused where it is not clean")
    options = parser.parse_args(argv)
    if options.repeat < 1:
        parser.error(f"--repeat {options.repeat}: has to be 1 or more")
    if options.bounded and (options.section or options.cases):
        parser.error("--bounded selects the cases itself")
    options.loop = server.LOOPS if options.loop == "all" else (options.loop,)
    options.compression = server.COMPRESSIONS if options.compression == "all" else (options.compression,)
    if options.bounded:
        groups = bounded_groups(expected)
    elif options.section or options.cases:
        groups = list(_groups(_select(parser, options.section, options.cases, list(expected))))
    else:
        groups = [*_groups(expected), Group("racing", RACING_CASES, RACING_REPETITIONS)]
    options.groups = [group._replace(repetitions=group.repetitions * options.repeat) for group in groups]
    if options.compression == ("off",) and all(group.name.startswith(COMPRESSED_SECTIONS) for group in groups):
        parser.error("--compression off leaves out sections 12 and 13, so nothing is selected")
    return options


def _select(
    parser: argparse.ArgumentParser, sections: Sequence[str], cases: Sequence[str], known: Sequence[str]
) -> set[str]:
    """Give the known cases that are in one of `sections` or named; what names none is an error."""
    selected: set[str] = set()
    for section in sections:
        prefix = section.removesuffix("*").removesuffix(".")
        members = [case for case in known if case == prefix or case.startswith(f"{prefix}.")]
        if not members:
            parser.error(f"--section {section}: no case is in it")
        selected.update(members)
    for case in cases:
        if case not in known:
            parser.error(f"--cases {case}: there is no such case")
        selected.add(case)
    return selected


def _describe(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {behavior}" for behavior, number in counts.most_common()) or "nothing"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
