"""Fixtures: server processes and command lines."""

from tests.runner.conftest import execute_here, processes, run_command, start

__all__ = ["execute_here", "processes", "run_command", "start"]
