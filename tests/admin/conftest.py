"""The fixtures of server processes, which end with the test."""

from tests.process.conftest import processes, run_command, start

__all__ = ["processes", "run_command", "start"]
