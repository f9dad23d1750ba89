"""A broker's process in a test: killed, suspended and started again at will."""

from __future__ import annotations

import os
import signal
import subprocess


class BrokerProcess:
    """A process that `start` brings back at the same address."""

    def __init__(self, command: list[str], ready: str) -> None:
        """`ready` is a part of the line that it prints when it accepts connections."""
        self._command = command
        self._ready = ready
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            said.append(line)
            if self._ready in line:
                return
        raise AssertionError(f"{self._command[0]} did not start: {said}")

    def suspend(self) -> None:
        """Stop it: connections stay open, and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; `start` brings it back, with nothing in it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
