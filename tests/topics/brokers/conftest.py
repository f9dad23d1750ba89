"""Fixtures: real brokers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.redis_server import RedisServer, redis_server
from tests.runner.conftest import execute_here, processes, run_command, start

__all__ = ["execute_here", "processes", "run_command", "start"]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A redis-server of this test alone."""
    pytest.importorskip("redis")
    with redis_server(tmp_path) as server:
        yield server
