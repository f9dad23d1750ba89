"""The bench of brokers works: a tiny run of it. Nothing here asserts how fast anything is."""

from __future__ import annotations

import pytest

from tests.bench import brokers
from tests.programs import find_program


@pytest.mark.slow
def test_tiny_run_measures_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("uvloop", reason="uvloop is not installed: pip install -e '.[uvloop]'")
    find_program("redis-server")
    find_program("nats-server")
    monkeypatch.setattr(brokers, "CONTESTANTS", [each for each in brokers.CONTESTANTS if each.server is brokers.ASGIWS])
    results = brokers.measure(1, 0.02, 3, 100)
    assert results["failures"] == {}
    assert len(results["figures"]) == 3
    for one in results["figures"].values():
        assert 0 < one["p50"] <= one["p99"]
        assert min(one["rate"], one["cpu"]) > 0
    table = brokers.table_of(results)
    assert all(f"| {name} |" in table for name in results["figures"])


def test_what_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    assert brokers.missing("nats-server", brokers.ASGIWS) == "nats-server is not installed"
    assert brokers.missing("", brokers.ASGIWS) == ""
