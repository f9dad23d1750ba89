"""A `nats-server` of one test: killed, suspended and started again at will."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import PATIENCE_S
from tests.broker_process import BrokerProcess
from tests.programs import find_program, reserved_port


class NatsServer(BrokerProcess):
    """A server that comes back at the same address."""

    def __init__(self, port: int, folder: Path, configuration: str = "", password: str = "") -> None:
        """`configuration` is that of a file, such as `max_payload: 1024`; `password` is a token."""
        self.port = port
        self.url = f"nats://127.0.0.1:{port}"
        self.password = password
        file = folder / "nats.conf"
        if password:
            configuration += f'\nauthorization: {{token: "{password}"}}'
        file.write_text(configuration)
        self._publisher: socket.socket | None = None
        command = [find_program("nats-server"), "-a", "127.0.0.1", "-p", str(port), "-c", str(file)]
        super().__init__(command, "Server is ready")

    @property
    def url_with_password(self) -> str:
        return self.url.replace("//", f"//{self.password}@")

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
        super().kill()


@contextmanager
def nats_server(folder: Path, configuration: str = "", *, password: str = "") -> Iterator[NatsServer]:
    """Run a server while the context lasts."""
    with reserved_port() as port:
        server = NatsServer(port, folder, configuration, password)
        try:
            yield server
        finally:
            server.kill()
