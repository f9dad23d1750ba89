"""The storm of the bench works: a small one. Nothing here asserts how fast anything is."""

from __future__ import annotations

import json

import pytest

from tests.bench import storm

SOME = [server for server in storm.CONTESTANTS if server.name in ("asgiws", "hypercorn")]


@pytest.mark.slow
def test_small_storm_brings_all_clients_back_and_measures_those_that_stay() -> None:
    pytest.importorskip("uvloop", reason="uvloop is not installed: pip install -e '.[uvloop]'")
    results = json.loads(json.dumps(storm.run(60, 4, 2, SOME)))
    assert list(results["servers"]) == ["asgiws", "hypercorn"]
    for row in results["servers"].values():
        assert "failure" not in row, row
        assert row["missing"] == 0
        assert row["back_s"] > storm.LOOKUP_S
        assert row["echoes"] > 0
    lines = storm.table(results).splitlines()
    assert sum(line.startswith(("| asgiws ", "| hypercorn ")) for line in lines) == 2


def test_table_says_what_is_met_and_who_could_not_be_measured() -> None:
    row = {
        "alone_s": 1.0,
        "back_s": 1.3,
        "cpu_s": 0.5,
        "alone_cpu_s": 0.4,
        "refused": 0,
        "missing": 0,
        "echo_p99_s": 0.02,
        "echo_max_s": 0.03,
    }
    results = {
        "machine": {"python": "3.11", "system": "Linux", "processor": "x", "cores": 2}, "versions": {"granian": "2"},
        "clients": 5000, "stay": 200, "storms": 3, "servers": {"asgiws": row, "granian": {"failure": "it ended"}},
    }  # fmt: skip
    text = storm.table(results)
    assert "* asgiws, echo p99 below 50 ms: 20 ms: met" in text
    assert "* asgiws, all back within 1.2 times what accepting alone needs: 1.30: **not met**" in text
    assert "* asgiws, nobody is refused while there is room: 0: met" in text
    assert "it ended" in text
