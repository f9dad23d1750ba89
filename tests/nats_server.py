"""A `nats-server` of one test: killed, suspended and started again at will."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.programs import find_program, reserved_port


class NatsServer:
    """A server that comes back at the same address."""

    def __init__(self, port: int, folder: Path, configuration: str = "") -> None:
        """`configuration` is that of a file, such as `authorization: {token: secret}`."""
        self.port = port
        self.url = f"nats://127.0.0.1:{port}"
        self._file = folder / "nats.conf"
        self._file.write_text(configuration)
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
        command = [find_program("nats-server"), "-a", "127.0.0.1", "-p", str(self.port), "-c", str(self._file)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        said = []
        for line in self._process.stderr:
            said.append(line)
            if "Server is ready" in line:
                return
        raise AssertionError(f"nats-server did not start: {said}")

    def suspend(self) -> None:
        """Stop it: connections stay open, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once; `start` brings it back."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()


@contextmanager
def nats_server(folder: Path, configuration: str = "") -> Iterator[NatsServer]:
    """Run a server while the context lasts."""
    with reserved_port() as port:
        server = NatsServer(port, folder, configuration)
        try:
            yield server
        finally:
            server.kill()
