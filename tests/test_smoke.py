from tests.apps import echo
from tests.conftest import Serve
from tests.raw import RawClient, close, text


def test_echo(serve: Serve) -> None:
    server = serve(echo)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(text("hello"))
        assert client.read_text() == "hello"
        client.send(close(1000))
        assert client.read_close() == (1000, "")
        assert client.read_to_end() == b""
