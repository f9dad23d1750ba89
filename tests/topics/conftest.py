"""Fixtures: server processes."""

from tests.runner.conftest import processes, start

__all__ = ["processes", "start"]
