"""A rolling restart behind real proxies: their clients see as little of it as clients without one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.proxies.conftest import UPSTREAMS
from tests.proxies.fronts import StartFront
from tests.server_process import Start
from tests.workers.crew import WHOAMI, restart, workers_of_log
from tests.workers.load import Load


@pytest.fixture
def loads() -> Iterator[list[Load]]:
    """Loads that end with the test."""
    begun: list[Load] = []
    yield begun
    for load in begun:
        load.end()


@pytest.mark.slow
def test_no_client_of_a_proxy_sees_a_failure_across_rolling_restarts(
    start: Start, front: StartFront, kind: str, loop_name: str, loads: list[Load], tmp_path: object
) -> None:
    """WebSockets and requests through the proxy; the Close 1012 of a drained worker reaches its client."""
    unix = ["--uds", f"{tmp_path}/app.sock"] if UPSTREAMS[kind, loop_name] == "unix" else []
    process = start(WHOAMI, "--workers", "2", *unix)
    load = Load(front(process.address).port)
    loads.append(load)
    load.begin(load.websocket, load.websocket, load.request)
    pids = set(workers_of_log(process.stderr))
    for _ in range(3):
        pids |= set(restart(process, 2))
    load.end()
    assert load.failures == []
    assert len(pids) == 8
    assert load.pids <= pids
    assert load.outcomes["echoed"] > 3
    assert load.outcomes["answered"] > 3
