"""The fixtures of server processes, which end with the test."""

from tests.runner.conftest import processes, run_command, start

__all__ = ["processes", "run_command", "start"]
