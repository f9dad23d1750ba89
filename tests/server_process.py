"""Server processes: started as a user would, read line by line, and gone when the test is.

Two threads read what a process prints, so that a test waits for a line and for an exit code and never for time.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

from asgiws.config.options import OPTIONS
from tests import PATIENCE_S
from tests.raw import RawClient

ROOT = Path(__file__).parents[1]
APPS = "tests.runner.apps"


class ServerProcess:
    """One `python -m asgiws ...`, and what it has printed so far."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environ: Mapping[str, str] | None = None,
        folder: Path | None = None,
        pass_fds: Sequence[int] = (),
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self.address = ""
        """Where it listens, as the line that says so has it."""
        self._queues: dict[str, queue.Queue[str | None]] = {"stdout": queue.Queue(), "stderr": queue.Queue()}
        self._process = subprocess.Popen(
            command,
            cwd=folder or ROOT,
            env=clean_environ() | dict(environ or {}),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            pass_fds=pass_fds,
        )
        self._readers = [self._read(self._process.stdout, "stdout"), self._read(self._process.stderr, "stderr")]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def addresses(self) -> list[str]:
        """All that the line that says where it listens has."""
        line = next(line for line in self.stderr if "listening on" in line)
        return line.partition("listening on ")[2].rpartition(" (")[0].split(", ")

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def wait_ready(self) -> None:
        """Wait until the process says that it listens."""
        line = self.wait_stderr(r"listening on (\S+)")
        found = re.search(r"listening on (\S+)", line)
        assert found is not None
        self.address = found[1].rstrip(",")

    def wait_stdout(self, pattern: str) -> str:
        """Read lines of standard output up to one that matches."""
        return self._wait_line("stdout", pattern)

    def wait_stderr(self, pattern: str) -> str:
        """Read lines of standard error up to one that matches."""
        return self._wait_line("stderr", pattern)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def terminate(self) -> None:
        """Send the first signal, and wait until the server has taken it: two of a kind in a row would be one."""
        self.signal(signal.SIGTERM)
        self.wait_stderr("stopping")

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """Wait for the end; gives the exit code, when all output was read."""
        # The pipes close with the process, and threads wait for them: `Popen.wait` with a limit looks again and again.
        for reader in self._readers:
            reader.join(patience_s)
            assert not reader.is_alive(), f"the process did not end: {self._rest()}"
        return self._process.wait(patience_s)

    def kill(self) -> None:
        """End the process, if the test did not, and close its pipes."""
        if self._process.poll() is None:
            self._process.kill()
        self.wait()

    def _read(self, stream: IO[str] | None, name: str) -> threading.Thread:
        assert stream is not None

        def read() -> None:
            with stream:
                for line in filter(is_of_every_installation, stream):
                    self._queues[name].put(line.rstrip("\n"))
            self._queues[name].put(None)

        thread = threading.Thread(target=read, name=f"{name} of {self._process.pid}")
        thread.start()
        return thread

    def _wait_line(self, name: str, pattern: str) -> str:
        seen = self.stdout if name == "stdout" else self.stderr
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                # All of the wait has a limit, not that for each line: a log that does not end is no answer either.
                if (left_s := until_s - time.monotonic()) <= 0:
                    raise queue.Empty
                line = self._queues[name].get(timeout=left_s)
            except queue.Empty:
                raise AssertionError(f"no line {pattern!r} on {name}, only {seen[-100:]}; {self._rest()}") from None
            if line is None:
                self._queues[name].put(None)
                raise AssertionError(f"{name} ended without a line {pattern!r}: {seen}; {self._rest()}")
            seen.append(line)
            if re.search(pattern, line):
                return line

    def _rest(self) -> str:
        return f"exit code {self._process.poll()}, standard error {self.rest_of_stderr()[-100:]}"

    def rest_of_stdout(self) -> list[str]:
        """Take the lines of standard output that came and were not read."""
        return self._drain("stdout", self.stdout)

    def rest_of_stderr(self) -> list[str]:
        """Take the lines of standard error that came and were not read."""
        return self._drain("stderr", self.stderr)

    def _drain(self, name: str, seen: list[str]) -> list[str]:
        lines: list[str] = []
        for _ in range(self._queues[name].qsize()):  # and not those that come meanwhile, which may never end
            line = self._queues[name].get()
            if line is None:
                self._queues[name].put(None)
                break
            lines.append(line)
        seen += lines
        return lines


@dataclasses.dataclass
class Ended:
    """A command that ended: its exit code and all it printed."""

    code: int
    stdout: list[str]
    stderr: list[str]

    @classmethod
    def of(cls, process: ServerProcess) -> Ended:
        """Wait for the end of a process."""
        code = process.wait()
        process.rest_of_stdout()
        process.rest_of_stderr()
        return cls(code, process.stdout, process.stderr)


class Start(Protocol):
    """The fixture `start`: starts `python -m asgiws` with arguments, and waits until it listens unless told not to."""

    def __call__(
        self,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        folder: Path | None = None,
        pass_fds: Sequence[int] = (),
        wait_ready: bool = True,
    ) -> ServerProcess: ...


class RunCommand(Protocol):
    """The fixtures `run_command` and `execute_here`: run `asgiws` with arguments to its end."""

    def __call__(
        self, *arguments: str, environ: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> Ended: ...


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def clean_environ() -> dict[str, str]:
    """Give this process's environment without options of ours, and with the package to test on the path."""
    others = {variable for option in OPTIONS.values() for variable in option.variables}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ASGIWS_") and name not in others}
    # Lines as they are printed, and threads and files that nobody closed are told of.
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def module_command(arguments: Sequence[str]) -> list[str]:
    """Give the command line of the server."""
    return [sys.executable, "-m", "asgiws", *arguments]


def assert_no_traceback(process: ServerProcess) -> None:
    """Check that neither an exception nor a task that was left behind is in the log."""
    process.rest_of_stderr()
    faults = [line for line in process.stderr if "Traceback" in line or "destroyed" in line]
    assert faults == [], "\n".join(process.stderr)


def is_of_every_installation(line: str) -> bool:
    """Return whether a line is not the one that only an installation without the C module prints."""
    return "the C module is not built" not in line


def assert_one_line(ended: Ended, code: int, *said: str) -> None:
    """Check that a command failed with one line on standard error that says all of `said`, and printed nothing else."""
    assert ended.code == code, ended.stderr
    assert ended.stdout == []
    assert len(ended.stderr) == 1, ended.stderr
    assert ended.stderr[0].startswith("asgiws: ")
    for part in said:
        assert part in ended.stderr[0]


def post(client: RawClient, body: bytes) -> bytes:
    """Send a request on a kept connection; gives the body of the answer."""
    client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return client.read_answer().body


def has_ipv6() -> bool:
    """Whether this machine has an IPv6 loopback address."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
