"""A `redis-server` of one test, on a Unix socket and without files: killed, suspended and started again at will."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.broker_process import BrokerProcess
from tests.programs import find_program

if TYPE_CHECKING:
    import redis


class RedisServer(BrokerProcess):
    """A server that comes back at the same address."""

    def __init__(self, folder: Path, *arguments: str, password: str = "") -> None:
        """`arguments` are those of redis-server."""
        self.path = folder / "redis.sock"
        self.url = f"unix://{self.path}"
        self.password = password
        self._clients: list[redis.Redis] = []
        command = [
            find_program("redis-server"), "--port", "0", "--unixsocket", str(self.path), "--save", "",
            "--appendonly", "no", "--dir", str(folder), *arguments,
            *(["--requirepass", password] if password else []),
        ]  # fmt: skip
        super().__init__(command, "eady to accept connections")  # also "The server is now ready ..." of older ones

    @property
    def url_with_password(self) -> str:
        return f"redis+unix://:{self.password}@{self.path}"

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
