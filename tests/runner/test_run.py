"""`asgiws.run` in a program of its own: it returns, raises, and leaves the program's signals alone, and its
logging unless it is told how to log.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import asgiws
from tests.apps import echo
from tests.raw import RawClient
from tests.server_process import APPS, ServerProcess
from tests.telemetry.log_help import stopped_lines

SCRIPT = """
import asyncio, logging, signal, sys
import asgiws
from asgiws.server.lifespan import StartupFailed
from tests.runner import apps

if "--log" in sys.argv:
    logging.basicConfig(level="INFO")
try:
    app = sys.argv[1] if ":" in sys.argv[1] else getattr(apps, sys.argv[1])
    more = dict(word.split("=", 1) for word in sys.argv[4:] if "=" in word)
    options = dict(port=int(sys.argv[2]), loop=sys.argv[3], graceful_timeout=5, **more)
    asyncio.run(asgiws.serve(app, **options)) if "--serve" in sys.argv else asgiws.run(app, **options)
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


@pytest.mark.promise
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


# ---- options of logging


def test_run_leaves_logging_alone_when_it_is_only_told_which_lines(run_script: Callable[..., ServerProcess]) -> None:
    """`access_log` holds for whoever takes the lines."""
    process = run_script("facts", 0, "access_log=no")
    process.wait_stdout("lifespan.startup")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert process.rest_of_stdout()[-1] == "returned True []"
    assert process.rest_of_stderr() == []


@pytest.mark.parametrize(
    "arguments",
    [("echo", 0), ("echo", 0, "--serve"), (f"{APPS}:echo", 0), (f"{APPS}:echo", 0, "workers=1")],
    ids=["run", "serve", "name", "workers"],
)
def test_log_format_is_heeded(run_script: Callable[..., ServerProcess], arguments: tuple[object, ...]) -> None:
    """By every process: each line is an object."""
    process = run_script(*arguments, "log_format=json")
    process.wait_ready()
    with RawClient(process.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_answer().status == 200
    said = [json.loads(line)["message"] for line in stopped_lines(process)]
    assert [message for message in said if "GET / HTTP/1.1" in message]
    assert said[-1] == "stopped"


def test_log_level_is_heeded(run_script: Callable[..., ServerProcess]) -> None:
    process = run_script("facts", 0, "log_level=warning", "--log")
    process.wait_stdout("lifespan.startup")
    assert stopped_lines(process) == []


def test_log_file_is_heeded(run_script: Callable[..., ServerProcess], tmp_path: Path) -> None:
    process = run_script("facts", 0, f"log_file={tmp_path / 'asgiws.log'}")
    process.wait_stdout("lifespan.startup")
    assert stopped_lines(process) == []
    assert (tmp_path / "asgiws.log").read_text().endswith(" INFO     stopped\n")


def test_log_config_is_heeded(run_script: Callable[..., ServerProcess], tmp_path: Path) -> None:
    config = {
        "formatters": {"short": {"format": "here %(message)s"}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "short"}},
        "loggers": {"asgiws": {"handlers": ["console"]}},
    }
    (tmp_path / "log.json").write_text(json.dumps(config))
    process = run_script("facts", 0, f"log_config={tmp_path / 'log.json'}")
    process.wait_ready()
    assert stopped_lines(process)[-1] == "here stopped"


def test_log_file_that_cannot_be_opened_is_an_error(run_script: Callable[..., ServerProcess], tmp_path: Path) -> None:
    process = run_script("facts", 0, f"log_file={tmp_path}")
    assert process.wait() == 0
    assert process.rest_of_stdout() == ["OptionError", "returned True []"]


@pytest.mark.parametrize("value", [{"version": 1}, None], ids=["dict", "none"])
def test_log_config_that_is_no_path_is_refused_with_what_to_do(value: object) -> None:
    """What `uvicorn.run` takes."""
    with pytest.raises(asgiws.OptionError) as caught:
        asgiws.run(echo, log_config=value)
    assert str(caught.value) == (
        f"--log-config: {value!r} was given, allowed: the path of a TOML or JSON file; a program that calls asgiws.run "
        "may leave it out, and call logging.config.dictConfig before"
    )
