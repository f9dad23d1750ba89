"""Liveness and readiness: on the admin address for all workers, on a path of the public port for one."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.admin.helpers import Admin, wait_until
from tests.raw import Answer, RawClient
from tests.server_process import APPS, ServerProcess, Start

ECHO = "tests.apps:echo"
TCP = ("--admin", "127.0.0.1:0")
MOST_CONNECTIONS = 256


def ask(process: ServerProcess, path: str) -> Answer:
    with RawClient(process.port) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        return client.read_answer()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_server_is_alive_but_not_ready_while_the_application_starts(start: Start, workers: str) -> None:
    process = start(f"{APPS}:startup_hangs", *TCP, "--workers", workers, "--lifespan", "on", wait_ready=False)
    process.wait_stdout("lifespan.startup")
    admin = Admin(process)

    answer = admin.ask("/readyz")
    assert (answer.status, answer.body) == (503, b"not ready\n")
    assert admin.ask("/livez").status == 200
    assert admin.status()["levels"]["workers"] == {"starting": 1, "serving": 0, "stopping": 0}


def test_server_is_not_ready_before_every_worker_has_started(start: Start, tmp_path: Path) -> None:
    """The first of two workers serves, the second waits in its startup."""
    (tmp_path / "second_waits.py").write_text(
        "import asyncio, os\n"
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    try:\n"
        f"        os.mkdir({str(tmp_path / 'first')!r})\n"
        "    except FileExistsError:\n"
        "        print('second', flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "    await send({'type': 'lifespan.startup.complete'})\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.shutdown.complete'})\n"
    )
    process = start("second_waits:app", "--app-dir", str(tmp_path), *TCP, "--workers", "2", wait_ready=False)
    process.wait_stdout("second")
    admin = Admin(process)

    assert admin.status()["levels"]["workers"] == {"starting": 1, "serving": 1, "stopping": 0}
    assert not admin.is_ready()


@pytest.mark.promise
@pytest.mark.parametrize("workers", ["0", "2"])
def test_server_is_not_ready_while_it_drains(start: Start, workers: str) -> None:
    process = start(ECHO, *TCP, "--workers", workers, "--drain-delay", "60", "--health-path", "/healthz")
    admin = Admin(process)
    assert admin.is_ready()
    assert ask(process, "/healthz").status == 200

    process.terminate()

    wait_until(lambda: not admin.is_ready())
    wait_until(lambda: ask(process, "/healthz").status == 503)
    samples = admin.samples()
    assert samples["asgiws_draining", ()] == 1
    assert samples["asgiws_ready", ()] == 0
    assert ask(process, "/").status == 200, "until the delay is over, everything goes on"
    process.signal(signal.SIGINT)
    process.wait()


def test_server_is_not_ready_while_a_worker_is_missing(start: Start) -> None:
    process = start(ECHO, *TCP, "--workers", "2")
    admin = Admin(process)
    os.kill(admin.status()["workers"][1]["pid"], signal.SIGKILL)

    wait_until(lambda: not admin.is_ready())
    wait_until(admin.is_ready)


def test_balancers_may_ask_with_head(start: Start) -> None:
    admin = Admin(start(ECHO, *TCP))
    assert admin.ask("/readyz", method="HEAD").status == 200


def test_health_path_answers_before_the_application(start: Start) -> None:
    process = start(ECHO, "--health-path", "/healthz")
    answer = ask(process, "/healthz")

    assert (answer.status, answer.body) == (200, b"ready\n")
    assert ask(process, "/healthz/more").body == b"", "the application answers everywhere else"


def test_health_path_stands_below_the_root_path(start: Start) -> None:
    process = start(ECHO, "--health-path", "/healthz", "--root-path", "/api")
    assert ask(process, "/healthz").body == b"ready\n"


def test_without_the_option_the_path_is_the_applications(start: Start) -> None:
    process = start(ECHO)
    assert ask(process, "/healthz").body == b""


@pytest.mark.slow
def test_connections_that_are_kept_for_nothing_are_let_go_of(start: Start) -> None:
    """As many as there may be: some have asked and some ask slowly, and then who asks for health is answered again."""
    admin = Admin(start(ECHO, *TCP, "--workers", "1"))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(admin.connect()) for _ in range(MOST_CONNECTIONS)]
        for number, client in enumerate(clients):
            client.send(b"GET /livez HTTP/1.1\r\nHost: a\r\n" + (b"\r\n" if number % 2 else b""))
            assert number % 2 == 0 or client.read_answer().status == 200
        assert admin.ask("/livez").status == 503
        for client in clients:
            client.read_to_end()
    assert admin.ask("/livez").status == 200


@pytest.mark.parametrize("workers", ["0", "2"])
def test_server_without_room_for_new_clients_is_not_ready_when_asked_for(start: Start, workers: str) -> None:
    """Nothing fits into one byte: every worker refuses."""
    process = start(
        ECHO, *TCP, "--workers", workers, "--shed-memory", "1", "--shed-readiness", "--max-connections-by",
        "header:x-tenant=5",
    )  # fmt: skip
    admin = Admin(process)

    wait_until(lambda: admin.status()["levels"]["shedding"][""] == max(1, int(workers)))
    assert not admin.is_ready()
    assert admin.ask("/livez").status == 200
    assert admin.status()["tenants"] == {}
    assert admin.samples()["asgiws_shedding", ()] == max(1, int(workers))
    line = process.wait_stderr("refusing new WebSockets: ")
    assert "bytes of memory in use, limit 1 (--shed-memory); open ones are served" in line
