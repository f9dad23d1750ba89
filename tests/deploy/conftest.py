"""Fixtures: two servers, and a proxy in front of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from tests.deploy.fronts import ADDRESSES, FILES, Front, Starter
from tests.programs import reserved_port
from tests.runner.conftest import processes, start
from tests.server_process import ServerProcess, Start
from tests.workers.crew import WORKERS

__all__ = ["processes", "start"]

WHOAMI = f"{WORKERS}:whoami"


class Site:
    """Two servers on the same ports of two addresses, and the proxy in front of them."""

    def __init__(self, start: Start, app: str, options: tuple[str, ...], ports: tuple[int, int]) -> None:
        self.port, self.admin_port = ports
        self.servers: dict[str, ServerProcess] = {}
        self.front: Front
        self._start = start
        self._arguments = (app, *options)

    def admin(self, name: str) -> str:
        """Return the admin address of a server."""
        return f"{ADDRESSES[name]}:{self.admin_port}"

    def start_server(self, name: str) -> ServerProcess:
        """Start a server, the first time or again."""
        host = ADDRESSES[name]
        admin = self.admin(name)
        server = self._start(*self._arguments, "--host", host, "--port", str(self.port), "--admin", admin)
        self.servers[name] = server
        return server


class StartSite(Protocol):
    """The fixture `site`: starts both servers with options, and the proxy with edits of its file."""

    def __call__(self, *options: str, app: str = WHOAMI, edits: Mapping[str, str] | None = None) -> Site: ...


@pytest.fixture(params=sorted(FILES))
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of proxy."""
    return str(request.param)


@pytest.fixture
def loop_name(kind: str) -> str:
    """Each kind of proxy meets one loop, and both loops are met."""
    return "asyncio" if kind == "haproxy" else "auto"


@pytest.fixture
def site(kind: str, start: Start, processes: list[ServerProcess], tmp_path: Path) -> Iterator[StartSite]:
    """Start two servers behind each kind of proxy."""
    with ExitStack() as ends:

        def start_site(*options: str, app: str = WHOAMI, edits: Mapping[str, str] | None = None) -> Site:
            # Free on every address, and kept while a server is restarted
            ports = (ends.enter_context(reserved_port("")), ends.enter_context(reserved_port("")))
            site = Site(start, app, options, ports)
            for name in ADDRESSES:
                site.start_server(name)
            site.front = Starter(processes, tmp_path).start(kind, *ports, edits)
            ends.callback(site.front.stop)
            return site

        yield start_site
