"""A `nats-server` of one test: killed, suspended and started again at will."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import PATIENCE_S
from tests.programs import find_program, reserved_port


class NatsServer:
    """A server that comes back at the same address."""

    def __init__(self, port: int, folder: Path, configuration: str = "", password: str = "") -> None:
        """`configuration` is that of a file, such as `max_payload: 1024`; `password` is a token."""
        self.port = port
        self.url = f"nats://127.0.0.1:{port}"
        self.password = password
        self._file = folder / "nats.conf"
        if password:
            configuration += f'\nauthorization: {{token: "{password}"}}'
        self._file.write_text(configuration)
        self._publisher: socket.socket | None = None
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def url_with_password(self) -> str:
        return self.url.replace("//", f"//{self.password}@")

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
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill_subscribers(self) -> None:
        """End all connections: NATS knows no other way than to start again."""
        self.kill()
        self.start()

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish as another program does, which does not know nats-py."""
        if self._publisher is None:
            self._publisher = socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)
            options = json.dumps({"verbose": False, "auth_token": self.password})
            self._publisher.sendall(f"CONNECT {options}\r\n".encode())
        order = f"PUB asgiws.{topic} {len(payload)}\r\n".encode() + payload + b"\r\nPING\r\n"
        self._publisher.sendall(order)
        answer = b""
        while not answer.endswith(b"PONG\r\n"):
            piece = self._publisher.recv(65536)
            assert piece, answer
            answer += piece

    def kill(self) -> None:
        """End it at once; `start` brings it back."""
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()


@contextmanager
def nats_server(folder: Path, configuration: str = "", *, password: str = "") -> Iterator[NatsServer]:
    """Run a server while the context lasts."""
    with reserved_port() as port:
        server = NatsServer(port, folder, configuration, password)
        try:
            yield server
        finally:
            server.kill()
