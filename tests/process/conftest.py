"""Fixtures: processes that end with the test."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.process.helpers import Ended, RunCommand, ServerProcess, Start, module_command


@pytest.fixture
def processes() -> Iterator[list[ServerProcess]]:
    """Processes that are killed when the test has ended, whatever it did to them."""
    running: list[ServerProcess] = []
    # Who runs the tests in the background of a shell ignores SIGINT, and processes inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield running
    finally:
        signal.signal(signal.SIGINT, before)
        for process in running:
            process.kill()


@pytest.fixture
def start(processes: list[ServerProcess], loop_name: str) -> Start:
    """Start server processes on a free port and on each event loop."""

    def start(
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        folder: Path | None = None,
        pass_fds: Sequence[int] = (),
        wait_ready: bool = True,
    ) -> ServerProcess:
        address = [] if {"--bind", "--uds", "--fd"} & set(arguments) else ["--port", "0"]
        command = module_command([*address, "--loop", loop_name, *arguments])
        process = ServerProcess(command, environ=environ, folder=folder, pass_fds=pass_fds)
        processes.append(process)
        if wait_ready:
            process.wait_ready()
        return process

    return start


@pytest.fixture
def run_command(processes: list[ServerProcess]) -> RunCommand:
    """Run command lines that end by themselves."""

    def run(*arguments: str, environ: Mapping[str, str] | None = None, folder: Path | None = None) -> Ended:
        process = ServerProcess(module_command(arguments), environ=environ, folder=folder)
        processes.append(process)
        return Ended(process)

    return run
