"""The bench works: a tiny run of it, and the report from saved results. Nothing here asserts how fast anything is."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.bench import machine, picture, relay, report, run, scaling, servers, targets, wire, workloads
from tests.bench.__main__ import SCALING_SERVERS, main

TINY = run.Plan(rounds=2, seconds=0.01, latency_s=0.05, memory_counts=(10,))
SOME = ("asgiws", "uvicorn websockets-sansio", "bare protocol")
WEBSOCKETS = ("echo-50", "burst", "echo-64k-binary", "handshake", "handshake-reset")


@pytest.fixture(scope="module")
def uvloop() -> None:
    pytest.importorskip("uvloop", reason="uvloop is not installed: pip install -e '.[uvloop]'")


def measure(names: tuple[str, ...], *extras: str) -> dict[str, Any]:
    return run.run(TINY, [workloads.BY_NAME[name] for name in names], [servers.BY_NAME[name] for name in SOME], extras)


@pytest.mark.slow
@pytest.mark.usefixtures("uvloop")
def test_tiny_run_measures_every_server_in_every_round() -> None:
    results = measure((*WEBSOCKETS, "echo-64k-chinese", "broadcast", "http-get", "http-post"))
    assert results["failures"] == {}
    for name, row in results["cpu"].items():
        assert list(row) == list(SOME), name
        assert all(len(samples) == TINY.rounds and min(samples) > 0 for samples in row.values()), name


@pytest.mark.slow
@pytest.mark.usefixtures("uvloop")
def test_tiny_run_leaves_out_who_cannot_take_part() -> None:
    results = measure(("json-compressed", "broadcast-compressed", "http-get-varied", "handshake-browser",
                       "starlette-50", "fastapi-burst"))  # fmt: skip
    assert results["failures"] == {}
    assert [list(row) for row in results["cpu"].values()] == [list(SOME[:2])] * 6
    assert 100 < results["bytes"]["json-compressed"]["asgiws"] < 1024
    assert 20 < results["bytes"]["broadcast-compressed"]["asgiws"] < 200


@pytest.mark.slow
@pytest.mark.usefixtures("uvloop")
def test_tiny_run_of_memory_and_latency() -> None:
    results = measure((), "memory", "latency")
    assert results["failures"] == {}
    assert [list(row) for row in results["memory"].values()] == [list(SOME[:2])] * 2
    for rounds in results["latency"].values():
        assert all(one["p50"] <= one["p99"] <= one["p99.9"] and one["rate"] > 0 for one in rounds)


@pytest.mark.slow
@pytest.mark.usefixtures("uvloop")
def test_tiny_run_of_the_scaling() -> None:
    plan = scaling.ScalingPlan((1, 20), 200, 2, 0.05, 2)
    measured = scaling.run(plan, [servers.BY_NAME[name] for name in SOME])
    assert list(measured["servers"]) == list(SOME)
    for name, row in measured["servers"].items():
        assert all(costs.keys() == {"1", "20"} and min(costs.values()) > 0 for costs in row["cpu"].values()), name
    text = report.text(results_of() | {"scaling": measured})
    assert "20 connections in turn, 64 in flight" in text
    assert "20 idle connections, between pings" in text


@pytest.mark.usefixtures("uvloop")
def test_cpu_time_is_that_of_the_operating_system() -> None:
    running = servers.Running(servers.BY_NAME["asgiws"])
    try:
        workloads.measure(workloads.BY_NAME["echo-50"], running, 20)
        assert running.pids
        before, told, after = (
            machine.cpu_s(running.pids), sum(map(machine.stat_cpu_s, running.pids)), machine.cpu_s(running.pids),
        )  # fmt: skip
        assert before - 0.02 <= told <= after + 0.02
    finally:
        running.stop()


@pytest.mark.usefixtures("uvloop")
def test_server_that_does_not_answer_is_a_noted_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(servers.APPS, "plain", "tests.bench.apps_fastapi:app")  # it knows no GET /
    results = measure(("http-get",))
    assert list(results["cpu"]["http-get"]) == ["bare protocol"]
    assert set(results["failures"]["http-get"]) == set(SOME[:2])
    assert "404" in results["failures"]["http-get"]["asgiws"]


@pytest.mark.parametrize(
    ("name", "work"),
    [("anycorn", "handshake-reset"), ("anycorn", "http-get"), ("socketify", "handshake-reset"),
     ("socketify", "echo-50"), ("socketify", "http-post"), ("fastpysgi", "http-get-varied")],
)  # fmt: skip
def test_peer_that_may_not_be_installed_is_measured(name: str, work: str) -> None:
    server = servers.BY_NAME[name]
    pytest.importorskip(server.package, reason=f"{server.package} is not installed: pip install -e '.[bench]'")
    results = run.run(TINY, [workloads.BY_NAME[work]], [server], ())
    assert results["failures"] == {}
    assert len(results["cpu"][work][name]) == TINY.rounds


def test_server_of_http_takes_no_part_with_websockets() -> None:
    server = servers.BY_NAME["fastpysgi"]
    taken = {name for name, workload in workloads.BY_NAME.items() if workload.measures(server)}
    assert taken == {"http-get", "http-get-varied", "http-post"}
    assert not server.compared


@pytest.mark.usefixtures("uvloop")
def test_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(servers.APPS, "plain", "tests.bench.apps:no_such_thing")
    with pytest.raises(servers.ServerFailed, match="no_such_thing"):
        servers.Running(servers.BY_NAME["asgiws"])


# ---- what clients send


@pytest.mark.parametrize("size", [100, 200, 1024])
def test_records_are_json_of_exactly_the_size(size: int) -> None:
    made = wire.records(size, 10)
    assert {len(record) for record in made} == {size}
    assert len(set(made)) == 10
    assert all(json.loads(record)["type"] == "tick" for record in made)


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_end_of_a_frame_is_found_from_its_head(size: int) -> None:
    data = wire.server_frame(wire.BINARY, b"x" * size)
    assert len(data) == wire.server_frame_bytes(size)
    assert wire.frame_end(data + b"more", 0) == len(data)
    assert all(wire.frame_end(data[:cut], 0) > cut for cut in (0, 1, 2, 3, 9) if cut < len(data))


# ---- the report


def results_of(**cpu: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "machine": {"python": "3.11.0", "system": "Linux 6", "processor": "a processor", "cores": 2},
        "versions": {"uvicorn": "0.54.0"}, "c module": True, "settings": {"rounds": 3, "seconds": 0.1},
        "cpu": cpu, "failures": {},
    }  # fmt: skip


def test_target_is_a_ratio_of_medians_to_the_best_peer() -> None:
    [target] = [target for target in targets.TARGETS if target.name == "burst"]
    peers = {"granian": [30.0], "gunicorn": [9.0, 10.0, 90.0], "picows": [1.0], "bare protocol": [0.1]}
    met = results_of(burst={"asgiws": [2.0, 1.0, 9.0], **peers})
    missed = results_of(burst={"asgiws": [2.1], **peers})
    assert target.met(targets.Figures(met)) is True
    assert target.met(targets.Figures(missed)) is False
    assert "5.00x (gunicorn)" in report.text(met)
    assert target.met(targets.Figures(results_of())) is None


def test_target_that_is_missed_says_what_the_floor_reaches() -> None:
    results = results_of(burst={"asgiws": [2.0], "granian": [8.0], "bare protocol": [1.0]})
    assert "4.00x (granian)" in report.text(results)
    assert "; the bare protocol, which parses nothing, is at 8.00x" in report.text(results)


@pytest.mark.parametrize("without", ["", "a disconnect for the application"])
def test_missed_get_says_what_the_loop_takes_and_what_the_peer_does_without(without: str) -> None:
    peer = "fastpysgi" if without else "granian"
    results = results_of(**{"http-get": {"asgiws": [12.0], peer: [10.0], "bare protocol": [5.5]}})
    said = next(line for line in report.text(results).splitlines() if line.startswith("| GET hello, 50 kept"))
    assert "no: 5.5 of our 12.0 us are the loop's and the kernel's" in said
    assert f"{peer} does its part outside Python" in said
    assert ("without a check" in said) == bool(without)


def test_every_reason_can_be_given_and_belongs_to_a_target() -> None:
    results = results_of(**{name: {key: [2.0, 3.0] for key in servers.BY_NAME} for name in workloads.BY_NAME})
    figures = targets.Figures(results)
    assert all(why(figures) for why in targets.WHY_NOT.values())
    assert set(targets.WHY_NOT) <= {target.name for target in targets.TARGETS}


def test_who_could_not_be_measured_is_listed() -> None:
    results = results_of() | {"failures": {"http-post": {"gunicorn": "Refused: it closed"}}}
    assert "* http-post, gunicorn: Refused: it closed" in report.text(results)


@pytest.mark.parametrize(("count", "growth"), [(1000, None), (10000, 1.5)])
def test_target_that_names_ten_thousand_connections_is_not_met_with_fewer(count: int, growth: float | None) -> None:
    row = {"cpu": {"1": {"1": 2.0, str(count): 3.0}}, "idle": {"sweep": 0.1}, "beside slow": 1.0}
    figures = targets.Figures(
        results_of() | {"scaling": {"connections": count, "slow": 50, "servers": {"asgiws": row}}}
    )
    assert figures.growth("asgiws") == ({"1": growth} if growth else {})
    assert figures.scaling("idle", "sweep") == (0.1 if growth else None)


def test_report_names_every_target_and_every_figure() -> None:
    results = results_of(**{name: {key: [2.0, 3.0] for key in servers.BY_NAME} for name in workloads.BY_NAME})
    text = report.text(results)
    for target in targets.TARGETS:
        assert f"| {target.claim} " in text
    for workload in workloads.WORKLOADS:
        assert workload.described in text
    for name in servers.BY_NAME:
        assert name in text


def test_picture_has_every_server_of_every_workload() -> None:
    results = results_of(**{name: {key: [2.0] for key in servers.BY_NAME} for name in workloads.BY_NAME})
    drawn = picture.draw(results)
    root = ElementTree.fromstring(drawn)
    titles = root.findall(".//{http://www.w3.org/2000/svg}title")
    assert len(titles) == len(servers.BY_NAME) * len(workloads.BY_NAME)
    assert "Python 3.11.0" in drawn
    assert picture.draw(json.loads(json.dumps(results))) == drawn


def test_picture_in_the_repository_is_made_from_the_results_beside_it() -> None:
    assert report.PICTURE.read_text() == picture.draw(report.published()), "run: python -m tests.bench publish"


def test_targets_that_are_missed_have_a_reason() -> None:
    """Judged on the results in the repository. A run decides by a hair about some, so others may have one, too."""
    figures = targets.Figures(report.published())
    names = [target.name for target in targets.TARGETS]
    assert len(set(names)) == len(names)
    assert {target.name for target in targets.TARGETS if target.met(figures) is False} <= set(targets.WHY_NOT)
    assert [target.name for target in targets.TARGETS if target.met(figures) is None] == []


def test_results_in_the_repository_are_those_of_one_whole_run() -> None:
    """As many rounds of everybody with everything, or what was seen instead is told."""
    results = report.published()
    assert (results["settings"]["rounds"], results["settings"]["seconds"]) == (run.FULL.rounds, run.FULL.seconds)
    assert list(results["cpu"]) == list(workloads.BY_NAME)
    for name, row in results["cpu"].items():
        expected = {server.name for server in servers.SERVERS if workloads.BY_NAME[name].measures(server)}
        assert set(row) | set(results["failures"].get(name, {})) == expected, name
        assert {len(samples) for samples in row.values()} == {run.FULL.rounds}, name
    every = {server.name for server in servers.SERVERS if server.compared}
    assert all(set(row) == every for row in [results["latency"], *results["memory"].values()])
    assert results["scaling"]["connections"] == scaling.FULL.counts[-1]
    assert set(results["scaling"]["servers"]) == set(SCALING_SERVERS)


# ---- the command line


def test_report_of_a_file_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--file", str(tmp_path / "none.json")]) == 2
    assert "measure first" in capsys.readouterr().err


def test_nothing_to_measure_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--servers", "nobody"]) == 2
    assert "--help lists them" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("uvloop")
def test_run_saves_what_report_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "folder" / "results.json"
    chosen = ["--servers", "asgiws", "--workloads", "echo-1", "--rounds", "2", "--seconds", "0.01"]
    assert main([*chosen, "--file", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "echo 32 B, 1 connection" in printed
    assert ElementTree.parse(file.with_suffix(".svg")).getroot() is not None
    assert statistics.median(json.loads(file.read_text())["cpu"]["echo-1"]["asgiws"]) > 0
    assert main(["report", "--file", str(file)]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.slow
@pytest.mark.usefixtures("uvloop")
def test_tiny_run_of_the_relay(capsys: pytest.CaptureFixture[str]) -> None:
    relay.main(["--messages", "120", "--rounds", "1"])
    assert re.fullmatch(r"[\d,]+ messages of 100 B a second to 3 other workers\n", capsys.readouterr().err)
