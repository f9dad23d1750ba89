"""Fixtures: those of the processes."""

from tests.runner.conftest import processes, start

__all__ = ["processes", "start"]
