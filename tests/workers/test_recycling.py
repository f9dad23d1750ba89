"""A process that has served enough finishes what is open, says why, and ends with exit code 0."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from asgiws.config.options import Config
from asgiws.server.recycling import Recycling, resident_bytes
from asgiws.telemetry.counters import Counters
from tests.apps import echo
from tests.conftest import Serve
from tests.raw import RawClient, close, text
from tests.server_process import APPS, Start, post

ECHO = f"{APPS}:echo"
MIB = 1024 * 1024


def served(http: int, websockets: int = 0) -> Counters:
    counters = Counters()
    counters.http_requests, counters.websockets_accepted = http, websockets
    return counters


# ---- the limits


def test_nothing_is_due_without_an_option() -> None:
    assert Recycling(Config()).due(served(10**9, 10**9)) == ""


@pytest.mark.parametrize(("http", "websockets"), [(3, 0), (0, 3), (1, 2), (4, 0)])
def test_requests_and_websockets_count_alike(http: int, websockets: int) -> None:
    """At N, and not at N - 1."""
    recycling = Recycling(Config(max_requests=3))
    assert recycling.due(served(http, websockets)) == (
        f"served {http + websockets} requests and WebSockets, limit 3 (--max-requests)"
    )
    assert recycling.due(served(max(http - 2, 0), max(websockets - 1, 0))) == ""


def test_jitter_adds_at_most_what_was_given_and_spreads() -> None:
    """Each process draws once, from both bounds and all between."""
    config = Config(max_requests=100, max_requests_jitter=5)
    state = random.getstate()
    random.seed(1)
    try:
        drawn = [Recycling(config) for _ in range(200)]
    finally:
        random.setstate(state)
    limits = {next(n for n in range(200) if recycling.due(served(n))) for recycling in drawn}
    assert limits == {100, 101, 102, 103, 104, 105}


def test_jitter_alone_is_no_limit() -> None:
    assert Recycling(Config(max_requests_jitter=5)).due(served(10**9)) == ""


def test_memory_counts_what_is_resident() -> None:
    now = resident_bytes()
    if not now:
        pytest.skip("this system does not tell a process its resident memory")
    assert Recycling(Config(worker_memory=2 * now)).due(served(0)) == ""
    due = Recycling(Config(worker_memory=now // 2)).due(served(0))
    assert re.fullmatch(rf"takes [0-9]+ bytes, limit {now // 2} \(--worker-memory\)", due)


def test_resident_memory_is_what_the_kernel_says() -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("this system has no /proc")
    seen = int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmRSS:"))) * 1024
    assert 0.8 * seen < resident_bytes() < 1.25 * seen


def test_limit_of_memory_below_a_fresh_process_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    """Else each process would be replaced as soon as it serves, for ever."""
    if not resident_bytes():
        pytest.skip("this system does not tell a process its resident memory")
    recycling = Recycling(Config(worker_memory=1))
    recycling.spare_fresh()
    assert recycling.due(served(0)) == ""
    assert re.search(r"fresh process takes \d+ bytes, limit 1 \(--worker-memory\): that is too low", caplog.text)


def test_limit_of_memory_above_a_fresh_process_stays(caplog: pytest.LogCaptureFixture) -> None:
    recycling = Recycling(Config(worker_memory=1024**4))
    recycling.spare_fresh()
    assert caplog.text == ""


def test_time_is_spread_by_a_tenth(lifetimes: list[float]) -> None:
    """Processes that began together do not end together; none lives for longer than it may."""
    assert 90 <= min(lifetimes) < 92
    assert 98 < max(lifetimes) <= 100
    assert len(set(lifetimes)) > 50


@pytest.fixture
def lifetimes() -> list[float]:
    """The seconds after which each of 200 processes with --worker-lifetime 100 is due, to a tenth."""
    now_s = 0.0
    state = random.getstate()
    random.seed(1)
    try:
        waiting = [Recycling(Config(worker_lifetime=100), lambda: now_s) for _ in range(200)]
    finally:
        random.setstate(state)
    lifetimes = []
    for tenth in range(1100):
        now_s = tenth / 10
        due = [recycling for recycling in waiting if recycling.due(served(0))]
        lifetimes += [now_s] * len(due)
        waiting = [recycling for recycling in waiting if recycling not in due]
    assert waiting == []
    return lifetimes


# ---- the end of the process


@pytest.mark.promise
def test_process_ends_after_so_many_requests_and_websockets(start: Start) -> None:
    process = start(ECHO, "--max-requests", "3", "--graceful-timeout", "600")
    with RawClient(process.port) as http, RawClient(process.port) as websocket:
        assert post(http, b"one") == b"one"
        websocket.open_websocket()
        websocket.send(text("hello"))
        assert websocket.read_text() == "hello"
        assert post(http, b"two") == b"two"
        process.wait_stderr(r"served 3 requests and WebSockets, limit 3 \(--max-requests\), so it stops")
        assert websocket.read_close() == (1012, "service restart")
        websocket.send(close(1012))
        assert http.read_to_end() == b""
    assert process.wait() == 0
    process.rest_of_stdout()
    assert process.stdout[-1] == "lifespan.shutdown"


def test_open_request_is_finished_first(start: Start) -> None:
    """It is the one that was one too many."""
    process = start(ECHO, "--max-requests", "1", "--graceful-timeout", "600")
    with RawClient(process.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nab")
        process.wait_stderr("served 1 requests and WebSockets, limit 1 .*, so it stops")
        process.wait_stderr("stopping")
        client.send(b"cd")
        answer = client.read_answer()
        assert (answer.body, answer.header(b"connection")) == (b"abcd", b"close")
        assert client.read_to_end() == b""
    assert process.wait() == 0


def test_process_drains_as_it_does_after_a_signal(start: Start) -> None:
    """The delay is for load balancers, and they have to notice this end too; a signal then is the first."""
    process = start(ECHO, "--max-requests", "1", "--drain-delay", "600", "--graceful-timeout", "600")
    with RawClient(process.port) as client:
        assert post(client, b"one") == b"one"
    process.wait_stderr("draining")
    with RawClient(process.port) as late:
        assert post(late, b"late") == b"late"
    process.signal(15)
    process.signal(2)
    assert process.wait() == 0
    process.rest_of_stderr()
    assert len([line for line in process.stderr if "so it stops" in line]) == 1


def test_process_ends_after_its_time(start: Start) -> None:
    process = start(ECHO, "--worker-lifetime", "300ms")
    process.wait_stderr(r"served for its time \(--worker-lifetime\), so it stops")
    assert process.wait() == 0


def test_process_ends_when_it_has_grown(start: Start) -> None:
    """With an application that keeps what it takes."""
    process = start(f"{APPS}:hoarder", "--worker-memory", "160MiB")
    if not resident_bytes():
        pytest.skip("this system does not tell a process its resident memory")
    with RawClient(process.port) as client:
        assert post(client, b"160") == b"taken"
        line = process.wait_stderr(rf"takes [0-9]+ bytes, limit {160 * MIB} \(--worker-memory\), so it stops")
    found = re.search("takes ([0-9]+) bytes", line)
    assert found is not None
    assert int(found[1]) >= 160 * MIB
    assert process.wait() == 0


def test_server_in_a_program_is_not_stopped_by_itself(serve: Serve) -> None:
    """Without somebody to tell, it goes on: the program is not the server's to end."""
    server = serve(echo, max_requests=1)
    with RawClient(server.port) as client:
        for _ in range(3):
            assert post(client, b"hello") == b"hello"
            server.call(lambda: server.server._on_second())
        assert server.call(lambda: server.server.ready)


def test_whoever_is_told_is_told_once(serve: Serve) -> None:
    server = serve(echo, max_requests=1)
    told: list[str] = []
    server.server.on_due = told.append
    with RawClient(server.port) as client:
        for _ in range(3):
            assert post(client, b"hello") == b"hello"
            server.call(lambda: server.server._on_second())
    assert len(told) == 1
