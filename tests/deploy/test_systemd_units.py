"""The units of deploy/systemd/: systemd's own check of them, and the service as its socket starts it.

No service manager runs where tests do: `systemd-socket-activate` opens the socket that the unit names and starts the
command that the service names.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asgiws.config.options import Config
from asgiws.config.sources import Settings
from asgiws.runner.watchdog import stop_most_s
from tests.deploy.conftest import WHOAMI
from tests.deploy.fronts import DEPLOY
from tests.programs import edited, find_program
from tests.raw import close
from tests.server_process import ROOT, ServerProcess, clean_environ, free_port
from tests.workers.crew import ask, next_worker, open_socket

UNITS = DEPLOY / "systemd"
SECONDS = {"s": 1, "min": 60}


def value_of(unit: str, name: str) -> str:
    """The value of a setting that a unit has once."""
    (value,) = re.findall(rf"^{name}=(.*)$", (UNITS / unit).read_text(), re.MULTILINE)
    return str(value)


def seconds_of(unit: str, name: str) -> int:
    number, word = re.fullmatch(r"(\d+)(s|min)", value_of(unit, name)).groups()  # type: ignore[union-attr] # or it fails
    return int(number) * SECONDS[word]


def documented_commands() -> list[str]:
    """The lines by which README.md installs the service."""
    (block,) = re.findall(r"```sh\n([^`]*systemctl[^`]*)```", (DEPLOY / "README.md").read_text())
    return str(block).splitlines()


def options() -> Config:
    return Settings.load({"config": str(UNITS / "asgiws.toml")}, {}).config


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with both units, in which the program exists."""
    for unit in ("asgiws.service", "asgiws.socket"):
        program = {"/opt/app/.venv/bin/asgiws": sys.executable} if unit.endswith("service") else None
        (tmp_path / unit).write_text(edited((UNITS / unit).read_text(), program))
    return tmp_path


def test_systemd_finds_no_fault(installed: Path) -> None:
    program = find_program("systemd-analyze", "systemd")
    units = [str(installed / unit) for unit in ("asgiws.service", "asgiws.socket")]
    done = subprocess.run([program, "verify", *units], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_service_is_exposed_to_hardly_anything(installed: Path) -> None:
    """At most 1.5 of 10 by systemd's count; what is left is that it has a network, which a server needs."""
    program = find_program("systemd-analyze", "systemd")
    command = [program, "security", "--offline=true", "--threshold=15", str(installed / "asgiws.service")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:]


def test_application_of_the_readme_is_where_the_service_looks_for_it(tmp_path: Path) -> None:
    """By the README's own lines, with folders of this test in place of the system's; all but what pip fetches."""
    program = value_of("asgiws.service", "ExecStart").split()[0]
    folder = value_of("asgiws.service", "WorkingDirectory")
    (tmp_path / "units").mkdir()
    places = {program: f"{sys.executable} -m asgiws", folder: f"{tmp_path}/app",
              "/etc/systemd/system/": f"{tmp_path}/units", "/etc/": f"{tmp_path}/"}  # fmt: skip
    lines = [line for line in documented_commands() if line.startswith("install ") or "--check-config" in line]
    for line in lines:
        for old, new in places.items():
            line = line.replace(old, new)
        done = subprocess.run(["sh", "-c", line], cwd=ROOT, env=clean_environ(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "app:app" in done.stdout
    assert {file.name for file in (tmp_path / "units").iterdir()} == {"asgiws.service", "asgiws.socket"}


def test_readme_names_the_program_that_the_service_starts() -> None:
    """No other asgiws is on anybody's path."""
    program = value_of("asgiws.service", "ExecStart").split()[0]
    commands = [line.split()[0] for line in documented_commands() if re.match(r"\S*asgiws ", line)]
    assert commands == [program] * 2


def test_systemd_waits_longer_than_a_stop_takes() -> None:
    assert seconds_of("asgiws.service", "TimeoutStopSec") > stop_most_s(options()) + 5


def test_watchdog_and_backlog_are_ours() -> None:
    assert int(value_of("asgiws.socket", "Backlog")) == Config().backlog
    assert seconds_of("asgiws.service", "WatchdogSec") == Config().worker_timeout


@pytest.mark.slow
@pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])
def test_service_runs_on_its_socket_and_reloads(processes: list[ServerProcess], loop_name: str, tmp_path: Path) -> None:
    """The very command and options of the service, with both workers on the socket that it was handed."""
    file = tmp_path / "asgiws.toml"
    file.write_text(edited((UNITS / "asgiws.toml").read_text(), {'app = "app:app"': f'app = "{WHOAMI}"'}))
    command = shlex.split(value_of("asgiws.service", "ExecStart"))
    assert command == ["/opt/app/.venv/bin/asgiws", "--config", "/etc/asgiws.toml"]
    command = [sys.executable, "-m", "asgiws", "--config", str(file), "--loop", loop_name]
    kept = [f"--setenv={name}={value}" for name, value in clean_environ().items() if name.startswith("PYTHON")]
    port = free_port()
    listen = value_of("asgiws.socket", "ListenStream").replace(":8000", f":{port}")
    activate = find_program("systemd-socket-activate", "systemd")
    process = ServerProcess([activate, *kept, f"--listen={listen}", *command])
    processes.append(process)
    process.wait_stderr("Listening on")

    first = ask(port)
    started = {first, *(next_worker(process, number) for number in (1, 2))}
    assert len(started) == 2
    client, pid = open_socket(port)

    assert value_of("asgiws.service", "ExecReload") == "/bin/kill -HUP $MAINPID"
    process.signal(signal.SIGHUP)
    assert client.read_close() == (1012, "service restart")
    client.send(close(1012))
    client.socket.close()
    again, other = open_socket(port)
    assert other not in {pid}
    again.socket.close()

    process.terminate()
    assert process.wait() == 0
