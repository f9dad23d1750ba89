"""Fixtures: server processes, as the process tests have them, and a port for a server that is not there yet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.programs import reserved_port
from tests.runner.conftest import processes, start

__all__ = ["free_port", "processes", "start"]


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port of the loopback address on which nobody listens, and which nobody else is given meanwhile."""
    with reserved_port() as port:
        yield port
