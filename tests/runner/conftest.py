"""Fixtures: processes that end with the test."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from asgiws.cli import execute
from tests.server_process import (
    ROOT,
    Ended,
    RunCommand,
    ServerProcess,
    Start,
    clean_environ,
    is_of_every_installation,
    module_command,
)


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
        return Ended.of(process)

    return run


@pytest.fixture
def execute_here(capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """Run command lines that end before they serve: in this process, which takes a hundredth of the time."""

    def run(*arguments: str, environ: Mapping[str, str] | None = None, folder: Path | None = None) -> Ended:
        with _kept_state(folder or ROOT):
            os.environ.clear()
            os.environ.update(clean_environ() | dict(environ or {}))
            code = execute(arguments)
        said = capsys.readouterr()
        return Ended(code, said.out.splitlines(), [*filter(is_of_every_installation, said.err.splitlines())])

    return run


@contextlib.contextmanager
def _kept_state(folder: Path) -> Iterator[None]:
    """Put back what a command line changes in its process: environment, path, modules of the folder, logging."""
    environ, path, modules = dict(os.environ), [*sys.path], set(sys.modules)
    loggers = [logging.getLogger(name) for name in ("asgiws", "asyncio")]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    importlib.invalidate_caches()
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        os.environ.clear()
        os.environ.update(environ)
        sys.path[:] = path
        for name in sys.modules.keys() - modules:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)) and folder != ROOT:
                del sys.modules[name]
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.level, logger.propagate = handlers, level, propagate
