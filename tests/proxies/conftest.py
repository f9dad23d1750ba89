"""Fixtures: nginx and HAProxy in front of a server, all real and all gone when the test is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import pytest

from tests.proxies.fronts import Authority, Site, Starter, StartFront
from tests.runner.conftest import processes, run_command, start
from tests.server_process import ServerProcess, Start

__all__ = ["processes", "run_command", "start"]

BEHIND = "tests.proxies.apps:behind"
# Each kind of proxy meets both loops, TCP and Unix sockets, and so does each loop; not all eight combinations.
UPSTREAMS = {("nginx", "asyncio"): "tcp", ("nginx", "uvloop"): "unix",
             ("haproxy", "asyncio"): "unix", ("haproxy", "uvloop"): "tcp"}  # fmt: skip


class StartSite(Protocol):
    """The fixture `site`: starts a server with options and a proxy with edits of its configuration before it."""

    def __call__(
        self, *options: str, edits: Mapping[str, str] | None = None, authority: Authority | None = None
    ) -> Site: ...


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def starter(processes: list[ServerProcess], tmp_path: Path) -> Starter:
    return Starter(processes, tmp_path)


@pytest.fixture
def nginx(starter: Starter) -> StartFront:
    return starter.nginx


@pytest.fixture
def haproxy(starter: Starter) -> StartFront:
    return starter.haproxy


@pytest.fixture(params=["nginx", "haproxy"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of proxy."""
    return str(request.param)


@pytest.fixture
def front(starter: Starter, kind: str) -> StartFront:
    """Start a proxy of each kind."""
    return starter.nginx if kind == "nginx" else starter.haproxy


@pytest.fixture
def site(front: StartFront, start: Start, kind: str, loop_name: str, tmp_path: Path) -> StartSite:
    """Start a server on each loop behind each kind of proxy, over TCP or a Unix socket."""

    def start_site(*options: str, edits: Mapping[str, str] | None = None, authority: Authority | None = None) -> Site:
        unix = ["--uds", str(tmp_path / "app.sock")] if UPSTREAMS[kind, loop_name] == "unix" else []
        server = start(BEHIND, *unix, *options)
        return Site(server, front(server.address, edits, authority=authority))

    return start_site
