"""What Autobahn found, what is expected, and the difference.

An outcome is a case's `behavior`, its `behaviorClose`, and the close code that our side sent. The last is compared for
itself because the suite is lenient about it: it takes any way of closing that is not plainly wrong, and a connection
dropped without a Close frame after a violation is OK to it, where ours has to say 1002 or 1007.

Expected outcomes are the data in `expected.json`, one line per case, and its keys are the list of all cases. There is
no expected failure: `save_expected` refuses every behavior but OK and INFORMATIONAL.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = [
    "CLEAN", "Difference", "Outcome", "compare", "count", "load_expected", "load_outcomes", "save_expected", "sort_key",
]  # fmt: skip

EXPECTED: Final = Path(__file__).with_name("expected.json")
CLEAN: Final = frozenset({"OK", "INFORMATIONAL"})
WIRE_LOG_ROWS: Final = 16
WIRE_LOG_TAGS: Final[Mapping[str, str]] = {"RO": "received octets", "RF": "received frame", "TF": "sent frame"}


class Outcome(NamedTuple):
    """What one run of a case came to."""

    behavior: str
    behavior_close: str
    remote_close_code: int | None


class Difference(NamedTuple):
    """One thing that is not as expected: its claim in a line, and what the report says about it."""

    claim: str
    details: str = ""


Outcomes = Mapping[str, Mapping[str, Outcome]]
"""By agent and case."""


def sort_key(case: str) -> tuple[int, ...]:
    """Give the order of cases: 9.10 comes after 9.2."""
    return tuple(int(part) for part in case.split("."))


def load_expected() -> dict[str, Outcome]:
    """Read the expected outcome of every case."""
    return {case: _outcome(fields) for case, fields in json.loads(EXPECTED.read_text()).items()}


def save_expected(seen: Set[tuple[str, Outcome]]) -> None:
    """Replace the expected outcome of the cases in `seen`. Raises ValueError where one is not clean or not stable."""
    outcomes = dict(seen)
    unclean = {case for case, outcome in seen if not {outcome.behavior, outcome.behavior_close} <= CLEAN}
    unstable = {case for case, outcome in seen if outcome != outcomes[case]}
    if refused := sorted(unclean | unstable, key=sort_key):
        raise ValueError(f"not OK or INFORMATIONAL at each run, so not to be expected: {', '.join(refused)}")
    outcomes = load_expected() | outcomes
    lines = (
        f'  "{case}": {{"behavior": "{behavior}", "behaviorClose": "{close}", "remoteCloseCode": {json.dumps(code)}}}'
        for case, (behavior, close, code) in sorted(outcomes.items(), key=lambda item: sort_key(item[0]))
    )
    EXPECTED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def load_outcomes(folder: Path) -> dict[str, dict[str, Outcome]]:
    """Read the report that wstest wrote to `folder`; a run that wrote none has no outcomes."""
    try:
        index = json.loads((folder / "index.json").read_text())
    except FileNotFoundError:
        return {}
    return {agent: {case: _outcome(fields) for case, fields in cases.items()} for agent, cases in index.items()}


def compare(
    expected: Mapping[str, Outcome], outcomes: Outcomes, cases: Sequence[str], agents: Sequence[str], folder: Path
) -> Iterator[Difference]:
    """Give each selected case that has another outcome than expected, and those that have none, in one."""
    for agent in agents:
        by_case = outcomes.get(agent, {})
        if missing := [case for case in cases if case not in by_case]:
            yield Difference(f"{agent}: no result for {', '.join(missing)}")
        for case in cases:
            if case in by_case and by_case[case] != expected[case]:
                claim = f"expected {_describe_outcome(expected[case])}; seen {_describe_outcome(by_case[case])}"
                yield Difference(f"{agent}: {case}: {claim}", _describe(folder, agent, case))


def count(outcomes: Outcomes) -> Counter[str]:
    """Count the behaviors, over all agents and cases."""
    return Counter(outcome.behavior for cases in outcomes.values() for outcome in cases.values())


def _outcome(fields: Mapping[str, Any]) -> Outcome:
    return Outcome(fields["behavior"], fields["behaviorClose"], fields["remoteCloseCode"])


def _describe_outcome(outcome: Outcome) -> str:
    return f"{outcome.behavior}, close {outcome.behavior_close}, code {outcome.remote_close_code}"


def _describe(folder: Path, agent: str, case: str) -> str:
    """Give what the case's own report says: what was wanted, what came, and the end of the wire log."""
    name = json.loads((folder / "index.json").read_text())[agent][case]["reportfile"]
    report = json.loads((folder / name).read_text())
    rows = [row for row in report["wirelog"] if row[0] in WIRE_LOG_TAGS]
    lines = [
        f"case: {' '.join(report['description'].split())[:400]}",
        f"wanted: {' '.join(report['expectation'].split())}",
        f"result: {report['result']}",
        f"close: {report['resultClose']}",
        f"our close: {report['remoteCloseCode']} {report['remoteCloseReason']!r}",
        f"received: {report['received']!r}"[:400],
        f"report: {folder / name}",
        *(f"wire: {_describe_row(row)}" for row in rows[-WIRE_LOG_ROWS:]),
    ]
    return "\n".join(lines)


def _describe_row(row: Sequence[Any]) -> str:
    length, payload = row[1]
    kind = f" opcode {row[2]} fin {row[3]} rsv {row[4]}" if row[0] in ("RF", "TF") else ""
    return f"{WIRE_LOG_TAGS[row[0]]}{kind}, {length} bytes: {payload!r}"
