"""The server under test: `python -m asgiws` with the echo application, as a process of its own.

`EchoServer` starts it on a port that the kernel chooses, reads the port from what it prints, keeps that as a log, and
stops it. Nothing here speaks WebSocket.
"""

from __future__ import annotations

import queue
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, TextIO

__all__ = ["COMPRESSIONS", "LOOPS", "EchoServer", "ServerError", "server_command"]

LOOPS: Final = ("asyncio", "uvloop")
COMPRESSIONS: Final = ("shared", "dedicated", "off")

ROOT: Final = Path(__file__).resolve().parents[2]
READY: Final = re.compile(r"http://127\.0\.0\.1:(\d+)")
START_TIMEOUT_S: Final = 30
STOP_TIMEOUT_S: Final = 30
LOG_TAIL_LINES: Final = 30
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""The largest message of group 9 (9.1.6 and 9.2.6)."""


class ServerError(Exception):
    """The server under test did not start, ended early, or did not stop."""


def server_command(loop: str, compression: str) -> list[str]:
    """Give the command line of the server under test."""
    return [
        *(sys.executable, "-m", "asgiws", "tests.conformance.echo:app"),
        *("--host", "127.0.0.1", "--port", "0"),
        *("--loop", loop, "--compression", compression, "--max-message-size", str(MAX_MESSAGE_BYTES)),
    ]


class EchoServer:
    """A running server, as a context manager; `port` is known inside it."""

    def __init__(self, command: list[str], log_path: Path) -> None:
        self.port = 0
        self._command = command
        self._log_path = log_path
        self._ports: queue.SimpleQueue[int] = queue.SimpleQueue()

    def __enter__(self) -> EchoServer:
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._copy_log, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        try:
            self.port = self._ports.get(timeout=START_TIMEOUT_S)
        except queue.Empty:
            self._stop()
            raise ServerError(f"the server printed no address within {START_TIMEOUT_S} s\n{self.log_tail()}") from None
        if not self.port:
            self._stop()
            raise ServerError(f"the server ended before it printed its address\n{self.log_tail()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._stop() and error is None:
            raise ServerError(f"the server did not stop within {STOP_TIMEOUT_S} s of SIGTERM\n{self.log_tail()}")

    def check_running(self) -> None:
        """Raise ServerError where the server has ended."""
        status = self._process.poll()
        if status is not None:
            raise ServerError(f"the server ended with status {status}\n{self.log_tail()}")

    def log_tail(self) -> str:
        """Give the last lines that the server logged."""
        return "\n".join(self._log_path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])

    def _copy_log(self, output: TextIO) -> None:
        """Copy the output to the log; put the port into `_ports` when it shows, and 0 when the stream ends."""
        with self._log_path.open("w") as log:
            for line in output:
                log.write(line)
                log.flush()
                if found := READY.search(line):
                    self._ports.put(int(found[1]))
        self._ports.put(0)

    def _stop(self) -> bool:
        """End the process and tell whether SIGTERM was enough."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        finally:
            self._reader.join(STOP_TIMEOUT_S)
            if self._process.stdout is not None:
                self._process.stdout.close()
        return True
