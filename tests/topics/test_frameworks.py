"""Topics in the frameworks that people use: the WebSocket of each is taken as it is."""

from __future__ import annotations

import pytest

from tests.conftest import Serve
from tests.raw import RawClient, close, text
from tests.topics import frameworks


@pytest.mark.parametrize("framework", ["fastapi", "quart", "litestar", "channels"])
def test_room_in_a_framework(serve: Serve, framework: str) -> None:
    pytest.importorskip(framework, reason=f"{framework} is not installed: pip install -e '.[applications]'")
    server = serve(getattr(frameworks, framework)())
    with RawClient(server.port) as one, RawClient(server.port) as two, RawClient(server.port) as route:
        for client in (one, two):
            client.open_websocket()
            assert client.read_text() == "subscribed"
        one.send(text("hello"))
        assert one.read_text() == two.read_text() == "hello"
        route.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nnews")
        assert b"published" in route.read_answer().body
        assert one.read_text() == two.read_text() == "news"
        one.send(close())
        assert one.read_close()[0] in (1000, 1005)
        two.send(text("alone"))
        assert two.read_text() == "alone"
        two.send(close())
        two.read_close()
