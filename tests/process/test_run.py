"""`asgiws.run` in a program of its own: it returns, raises, and leaves the program's signals and logging alone."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process.helpers import ServerProcess
from tests.raw import RawClient

SCRIPT = """
import logging, signal, sys
import asgiws
from asgiws.server.lifespan import StartupFailed
from tests.process import apps

if "--log" in sys.argv:
    logging.basicConfig(level="INFO")
try:
    asgiws.run(getattr(apps, sys.argv[1]), port=int(sys.argv[2]), loop=sys.argv[3], graceful_timeout=5)
except (asgiws.OptionError, StartupFailed) as error:
    print(type(error).__name__, flush=True)
print("returned", signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, logging.getLogger("asgiws").handlers, flush=True)
"""


@pytest.fixture
def run_script(tmp_path: Path, loop_name: str, processes: list[ServerProcess]) -> Callable[..., ServerProcess]:
    """Start a program that calls `asgiws.run`."""
    script = tmp_path / "program.py"
    script.write_text(SCRIPT)

    def start(app: str, port: int, *more: str) -> ServerProcess:
        process = ServerProcess([sys.executable, str(script), app, str(port), loop_name, *more])
        processes.append(process)
        return process

    return start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_serves_until_a_signal_and_returns(
    run_script: Callable[..., ServerProcess], number: signal.Signals
) -> None:
    """The program goes on behind `run`, with its own signal handlers and its own logging."""
    process = run_script("echo", 0, "--log")
    process.wait_ready()
    with RawClient(process.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi")
        assert client.read_answer().body == b"hi"
    process.signal(number)
    process.wait_stdout("lifespan.shutdown")
    assert process.wait() == 0
    assert process.rest_of_stdout() == ["returned True []"]


def test_run_logs_nothing_by_itself(run_script: Callable[..., ServerProcess]) -> None:
    """A program that embeds the server keeps its own logging, or none."""
    process = run_script("facts", 0)
    process.wait_stdout("lifespan.startup")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert process.rest_of_stderr() == []


def test_run_raises_what_keeps_it_from_serving(run_script: Callable[..., ServerProcess]) -> None:
    for app, port, name in (("startup_fails", 0, "StartupFailed"), ("echo", 70000, "OptionError")):
        process = run_script(app, port)
        assert process.wait() == 0
        assert process.rest_of_stdout() == [name, "returned True []"]
        assert process.rest_of_stderr() == []
