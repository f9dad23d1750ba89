"""Fixtures: real brokers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

import pytest

from tests.nats_server import NatsServer, nats_server
from tests.redis_server import RedisServer, redis_server
from tests.runner.conftest import execute_here, processes, run_command, start

__all__ = ["BROKERS", "BrokerServer", "execute_here", "processes", "run_command", "start"]


class BrokerServer(Protocol):
    """A real broker of either kind."""

    @property
    def url(self) -> str: ...

    @property
    def url_with_password(self) -> str: ...

    def kill(self) -> None: ...

    def start(self) -> None: ...

    def suspend(self) -> None: ...

    def resume(self) -> None: ...

    def kill_subscribers(self) -> None:
        """End all connections that subscribe."""

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish as another program does."""


class RunBroker(Protocol):
    """Runs a broker, perhaps with a password, while the context lasts."""

    def __call__(self, folder: Path, *, password: str = "") -> AbstractContextManager[BrokerServer]: ...


BROKERS: Final[dict[str, RunBroker]] = {"redis": redis_server, "nats": nats_server}
"""By the package that each needs."""


@pytest.fixture(params=sorted(BROKERS))
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerServer]:
    """A broker of each kind, of this test alone."""
    pytest.importorskip(request.param)
    with BROKERS[request.param](tmp_path) as server:
        yield server


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server of this test alone."""
    pytest.importorskip("nats")
    with nats_server(tmp_path) as server:
        yield server


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A redis-server of this test alone."""
    pytest.importorskip("redis")
    with redis_server(tmp_path) as server:
        yield server
