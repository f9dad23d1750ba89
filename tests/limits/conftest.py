"""Fixtures: server processes, as the process tests have them."""

from tests.process.conftest import processes, start

__all__ = ["processes", "start"]
