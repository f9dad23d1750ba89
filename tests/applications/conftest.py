"""Fixtures: those of the processes."""

from tests.process.conftest import processes, start

__all__ = ["processes", "start"]
