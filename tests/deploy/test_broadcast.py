"""Sending to many: the example and the page's pattern wait for no client, and close one that does not keep up."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.request import urlopen

import pytest

from tests import PATIENCE_S
from tests.conftest import RunningServer, Serve
from tests.deploy.fronts import DEPLOY
from tests.raw import RawClient, text

MOST_MESSAGES = 5_000
"""More than the queues and the kernel's buffers of a client hold."""


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_name(request: pytest.FixtureRequest) -> str:
    """Both loops; no proxy is part of this."""
    return str(request.param)


def module_from(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("app_of_the_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def example() -> Any:
    """The example, which has a topic."""
    return module_from(DEPLOY / "example" / "app.py").app


@pytest.fixture
def pattern(tmp_path: Path) -> Any:
    """The application of the page, which has a queue for each client."""
    path = tmp_path / "app.py"
    path.write_text(re.findall(r"```python\n(.*?)```", (DEPLOY / "broadcast.md").read_text(), re.DOTALL)[0])
    return module_from(path).app


def viewers(server: RunningServer) -> int:
    with urlopen(f"{server.url}/health", timeout=PATIENCE_S) as answer:
        return int(json.load(answer)["viewers"])


def say(client: RawClient, message: str) -> None:
    """Send a message to the room and read up to its return."""
    client.send(text(message))
    while message[:20] not in client.read_text():
        pass


def say_until_alone(server: RunningServer, client: RawClient) -> None:
    """Say long messages until the client that reads nothing is out."""
    for number in range(MOST_MESSAGES):
        say(client, f"{number:020}" + "\N{GRINNING FACE}" * 479)
        if number % 50 == 0 and viewers(server) == 1:
            return
    raise AssertionError(f"{viewers(server)} viewers after {MOST_MESSAGES} messages")


def test_pattern_waits_for_no_client_and_says_why_it_closes_one(serve: Serve, pattern: Any) -> None:
    server = serve(pattern, write_timeout=600, max_message_rate=0)
    with RawClient(server.port, receive_buffer=4096) as silent, RawClient(server.port) as client:
        silent.open_websocket("/room")
        client.open_websocket("/room")
        say_until_alone(server, client)
        # It reads at last: what had waited for it, and then why it is out.
        opcode = 0
        while opcode != 0x88:
            opcode, payload = silent.read_frame()
        assert (int.from_bytes(payload[:2], "big"), payload[2:]) == (1013, b"reads too slowly")


def test_example_waits_for_no_client_and_the_server_drops_one(serve: Serve, example: Any) -> None:
    server = serve(example, write_timeout=600, max_message_rate=0)
    with RawClient(server.port, receive_buffer=4096) as silent, RawClient(server.port) as client:
        silent.open_websocket("/room")
        client.open_websocket("/room")
        say_until_alone(server, client)


@pytest.mark.parametrize("name", ["example", "pattern"])
def test_message_reaches_every_client(serve: Serve, request: pytest.FixtureRequest, name: str) -> None:
    server = serve(request.getfixturevalue(name))
    with RawClient(server.port) as one, RawClient(server.port) as other:
        one.open_websocket("/room")
        other.open_websocket("/room")
        assert viewers(server) == 2
        say(one, "0123456789 0123456789")
        while "0123456789 0123456789" not in other.read_text():
            pass
