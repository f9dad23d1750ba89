"""What honest browsers send compresses as well as a bomb does: it passes below the limit on messages."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest

from asgiws.server.asgi import Scope
from tests.apps import Receive, Send, refuse_lifespan
from tests.conftest import Serve
from tests.raw import RawClient, frame

ZEROS = {"blank canvas of 1000 x 800 pixels": 3_200_000, "new Float32Array(300000)": 1_200_000}
SCRIPT = """
const done = arguments[arguments.length - 1], socket = new WebSocket(location.href.replace("http", "ws")), found = []
const canvas = document.createElement("canvas")
canvas.width = 1000
canvas.height = 800
const pixels = canvas.getContext("2d").getImageData(0, 0, 1000, 800).data
socket.onopen = () => { socket.send(pixels); socket.send(new Float32Array(300000)) }
socket.onmessage = event => { found.push(event.data); if (found.length == 2) done(JSON.stringify(found)) }
socket.onclose = event => done(JSON.stringify(event.code))
"""


async def count_bytes(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer each binary message with its size; answer a request with an empty page."""
    await refuse_lifespan(scope)
    if scope["type"] == "http":
        headers = [(b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"<!doctype html>"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        assert not any(event["bytes"])
        await send({"type": "websocket.send", "text": str(len(event["bytes"]))})


@pytest.mark.parametrize("size", ZEROS.values(), ids=list(ZEROS))
def test_zeros_below_the_limit_on_messages_pass(serve: Serve, size: int) -> None:
    """RFC 7692 §7.2.1, as Chromium compresses: one message, about 1,000 to 1."""
    compressor = zlib.compressobj(wbits=-15)
    payload = (compressor.compress(bytes(size)) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    with RawClient(serve(count_bytes).port) as client:
        answer = client.open_websocket("/", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
        assert answer.header(b"sec-websocket-extensions") is not None
        client.send(frame(2, payload, rsv=4))
        assert client.read_text() == str(size)


@pytest.mark.browser
@pytest.mark.slow
def test_chromium_may_send_a_blank_canvas_and_an_empty_array(serve: Serve, tmp_path: Path) -> None:
    from tests.browser import start_chromium  # needs selenium

    server = serve(count_bytes)
    with start_chromium(tmp_path) as driver:
        driver.get(server.url)
        found = json.loads(driver.execute_async_script(SCRIPT))
    assert found == list(map(str, ZEROS.values()))
