"""The bounded part of the Autobahn test suite, on both event loops, with shared compression; and that it can fail."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests.conformance import autobahn, results, server, suite
from tests.conformance.results import Outcome

OK = Outcome("OK", "OK", 1002)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> suite.Suite:
    try:
        return suite.find_suite(tmp_path_factory.mktemp("autobahn"), docker=False)
    except suite.SuiteError as error:
        pytest.skip(f"Autobahn was not run: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("loop", server.LOOPS)
def test_every_case_has_the_expected_outcome(source: suite.Suite, loop: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(loop) is None:
        pytest.skip(f"{loop} is not installed")
    groups = autobahn.bounded_groups(results.load_expected())
    differences, _ = autobahn.run_groups(source, groups, loop, "shared", tmp_path)
    assert differences == []


def test_no_expected_outcome_is_a_failure() -> None:
    expected = results.load_expected()
    assert len(expected) == 517
    assert {outcome.behavior for outcome in expected.values()} == results.CLEAN
    assert {outcome.behavior_close for outcome in expected.values()} == results.CLEAN


def test_case_without_result_is_a_difference(tmp_path: Path) -> None:
    found = list(results.compare({"3.2": OK}, {}, ["3.2"], ["asgiws 1"], tmp_path))
    assert [difference.claim for difference in found] == ["asgiws 1: no result for 3.2"]


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(OK._replace(behavior="NON-STRICT"), id="behavior"),
        pytest.param(OK._replace(behavior_close="UNCLEAN"), id="behavior-close"),
        pytest.param(OK._replace(remote_close_code=None), id="close-code"),
    ],
)
def test_other_outcome_is_a_difference(seen: Outcome, tmp_path: Path) -> None:
    write_report(tmp_path, "3.2", seen)
    outcomes = results.load_outcomes(tmp_path)
    assert outcomes == {"asgiws 1": {"3.2": seen}}
    found = list(results.compare({"3.2": OK}, outcomes, ["3.2"], ["asgiws 1"], tmp_path))
    assert [difference.claim.split(": expected ")[0] for difference in found] == ["asgiws 1: 3.2"]


def test_expected_outcome_is_no_difference(tmp_path: Path) -> None:
    outcomes = {"asgiws 1": {"3.2": OK}}
    assert list(results.compare({"3.2": OK}, outcomes, ["3.2"], ["asgiws 1"], tmp_path)) == []


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param({("3.2", OK._replace(behavior="NON-STRICT"))}, id="not-clean"),
        pytest.param({("3.2", OK), ("3.2", OK._replace(remote_close_code=None))}, id="not-stable"),
    ],
)
def test_unclean_outcome_is_never_saved_as_expected(seen: set[tuple[str, Outcome]]) -> None:
    before = results.EXPECTED.read_bytes()
    with pytest.raises(ValueError, match=r"3\.2"):
        results.save_expected(seen)
    assert results.EXPECTED.read_bytes() == before


def write_report(folder: Path, case: str, outcome: Outcome) -> None:
    """Write what wstest writes for one case, as far as it is read."""
    fields = {
        "behavior": outcome.behavior,
        "behaviorClose": outcome.behavior_close,
        "remoteCloseCode": outcome.remote_close_code,
        "reportfile": "case.json",
    }
    details = {
        "description": "",
        "expectation": "",
        "result": "",
        "resultClose": "",
        "remoteCloseCode": outcome.remote_close_code,
        "remoteCloseReason": None,
        "received": [],
        "wirelog": [["TF", [2, "hi"], 1, True, 0, None, None, None, False], ["RO", [1, "88"]]],
    }
    (folder / "index.json").write_text(json.dumps({"asgiws 1": {case: fields}}))
    (folder / "case.json").write_text(json.dumps(details))
