"""Fixtures: server processes, as the process tests have them, and a port for a server that is not there yet."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.process.conftest import processes, start

__all__ = ["free_port", "processes", "start"]


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port of the loopback address on which nobody listens, and which nobody else is given meanwhile."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
