"""A `redis-server` of one test, on a Unix socket and without files: killed, suspended and started again at will."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.programs import find_program

if TYPE_CHECKING:
    import redis


class RedisServer:
    """A server that comes back at the same address."""

    def __init__(self, folder: Path, *arguments: str, password: str = "") -> None:
        """`arguments` are those of redis-server."""
        self.path = folder / "redis.sock"
        self.url = f"unix://{self.path}"
        self._folder = folder
        self._arguments = [*arguments, *(["--requirepass", password] if password else [])]
        self.password = password
        self._process: subprocess.Popen[str] | None = None
        self._clients: list[redis.Redis] = []
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def url_with_password(self) -> str:
        return f"redis+unix://:{self.password}@{self.path}"

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
        self._process = subprocess.Popen(
            [
                find_program("redis-server"), "--port", "0", "--unixsocket", str(self.path), "--save", "",
                "--appendonly", "no", "--dir", str(self._folder), *self._arguments,
            ],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            said.append(line)
            if "eady to accept connections" in line:  # also "The server is now ready ..." of older ones
                return
        raise AssertionError(f"redis-server did not start: {said}")

    def client(self, **options: Any) -> redis.Redis:
        """Return a client, which is closed with the server."""
        import redis

        client = redis.Redis(
            unix_socket_path=str(self.path), socket_timeout=20, password=self.password or None, **options
        )
        self._clients.append(client)
        return client

    def kill_subscribers(self) -> None:
        """Close all connections that subscribe."""
        self._own_client().client_kill_filter(_type="pubsub")

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish as another program does."""
        self._own_client().publish(f"asgiws:{topic}", payload)

    def _own_client(self) -> redis.Redis:
        if not self._clients:
            self.client()
        return self._clients[0]

    def suspend(self) -> None:
        """Stop it: connections stay open, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; `start` brings it back, with nothing in it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def close(self) -> None:
        """End it and its clients."""
        for client in self._clients:
            client.close()
        self.kill()


@contextmanager
def redis_server(folder: Path, *arguments: str, password: str = "") -> Iterator[RedisServer]:
    """Run a server while the context lasts."""
    server = RedisServer(folder, *arguments, password=password)
    try:
        yield server
    finally:
        server.close()
