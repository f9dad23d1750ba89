"""A free-threaded Python keeps its GIL off while asgiws serves."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from tests.raw import RawClient, text
from tests.server_process import RunCommand, Start

pytestmark = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="needs a free-threaded Python, such as python3.14t"
)

APP = """
import sys

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    await receive()
    await send({"type": "websocket.accept"})
    message = await receive()
    await send({"type": "websocket.send", "text": f"{len(message['text'])} {sys._is_gil_enabled()}"})
"""


def test_serving_does_not_switch_the_gil_on(start: Start, tmp_path: Path) -> None:
    (tmp_path / "free.py").write_text(APP)
    process = start("free:app", folder=tmp_path, environ={"PYTHON_GIL": ""})
    with RawClient(process.port) as client:
        client.open_websocket("/", "Sec-WebSocket-Extensions: permessage-deflate")
        client.send(text("x" * 65536))  # long enough for the C module
        assert client.read_text() == "65536 False"
    process.terminate()
    assert process.wait() == 0
    assert "GIL" not in "\n".join(process.stderr)


@pytest.mark.parametrize(("switch", "state"), [("", "off"), ("1", "on")])
def test_version_says_whether_the_gil_is_on(switch: str, state: str, run_command: RunCommand) -> None:
    ended = run_command("--version", "--verbose", environ={"PYTHON_GIL": switch})
    [line] = [line for line in ended.stdout if line.startswith("Python ")]
    assert f"free-threaded, GIL {state}" in line
