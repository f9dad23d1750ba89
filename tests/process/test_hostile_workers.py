"""Workers whose operator does things at the wrong moment, and applications that make it hard for their supervisor."""

from __future__ import annotations

import json
from pathlib import Path

from tests.process.crew import WORKERS, ask
from tests.process.helpers import Start
from tests.process.test_workers import WHOAMI, workers_of_log
from tests.raw import RawClient

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


# ---- what workers are given


def test_options_may_be_large(start: Start, tmp_path: Path) -> None:
    """The networks of a cloud, 450 KB of them: more than a socket between two processes takes at once."""
    networks = [f"10.{high}.{low}.0/24" for high in range(100) for low in range(250)]
    options = tmp_path / "cloud.toml"
    options.write_text(f"forwarded_allow_ips = {json.dumps(networks)}\n")
    process = start(WHOAMI, "--workers", "1", "--config", str(options))
    assert ask(process.port) == workers_of_log(process.stderr)[0]


def test_programs_that_the_application_starts_have_no_part_in_the_sockets(start: Start) -> None:
    """Neither in the listening ones, on which nobody would answer, nor in the channel; also while it is imported."""
    process = start(f"{WORKERS}:make_sockets_of_a_program", "--factory", "--workers", "1")
    with RawClient(process.port) as client:
        client.send(GET)
        assert client.read_answer().json() == []


def test_programs_that_the_application_starts_take_signals(start: Start) -> None:
    """A worker leaves SIGINT, SIGHUP and SIGUSR1 to its supervisor; what it starts is not to inherit that."""
    process = start(f"{WORKERS}:make_signals_of_a_program", "--factory", "--workers", "1")
    with RawClient(process.port) as client:
        client.send(GET)
        assert client.read_answer().json() == []
