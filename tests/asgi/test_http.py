"""ASGI HTTP 2.5: the scope of a request, and its body (checklist 4.2, H1 to H9, H17 and the inbound half of H18).

HTTP/2 is not spoken: its pseudo headers (H5) are illegal field names here, and H17 becomes "a scope of its own for each
request of a connection". Encrypted connections, and with them the schemes https and wss, are tested with TLS.
"""

from __future__ import annotations

import copy
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from asgiws.server.asgi import Scope
from tests.apps import Receive, Recorder, Send, refuse_lifespan
from tests.asgi.app_help import answer, get, with_lifespan
from tests.conftest import RunningServer, Serve
from tests.raw import RawClient, handshake


def scope_recorder(seen: Recorder) -> Any:
    """Make an application that writes down each scope, and refuses WebSockets."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        seen.put(scope)
        if scope["type"] == "http":
            await answer(send)
        else:
            await send({"type": "websocket.close"})

    return app


def body_recorder(seen: Recorder) -> Any:
    """Make an application that writes down the events of each request body, and then answers."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        more = True
        while more:
            event = await receive()
            seen.put(event)
            more = event.get("more_body", False)
        await answer(send, b"read")

    return app


def scope_of(serve: Serve, request: bytes, **options: object) -> Scope:
    """Give the scope that a request makes."""
    seen = Recorder()
    with RawClient(serve(scope_recorder(seen), **options).port) as client:
        client.send(request)
        scope: Scope = seen.next()
        client.read_answer()
    return scope


# ---- the scope


def test_scope_has_the_keys_of_the_specification_and_no_other(serve: Serve) -> None:
    """ASGI HTTP 2.5, the scope: each key, each with its type."""
    scope = scope_of(serve, get("/a?b"))
    assert {key: type(value) for key, value in scope.items()} == {
        "type": str, "asgi": dict, "http_version": str, "method": str, "scheme": str, "path": str, "raw_path": bytes,
        "query_string": bytes, "root_path": str, "headers": list, "client": tuple, "server": tuple, "extensions": dict,
    }  # fmt: skip


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_h1_http_version_is_that_of_the_request(serve: Serve, version: str) -> None:
    """ASGI H1: `http_version` is "1.0" or "1.1"."""
    assert scope_of(serve, get(version=version))["http_version"] == version


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PATCH", "PROPFIND", "M-SEARCH", "get", "Query"])
def test_h1_method_is_in_upper_case(serve: Serve, method: str) -> None:
    """ASGI H1: `method` is upper-case, whatever it is."""
    assert scope_of(serve, get(method=method))["method"] == method.upper()


TARGETS = [
    ("/", "/", b"/", b""),
    ("/a/b", "/a/b", b"/a/b", b""),
    ("/a?", "/a", b"/a", b""),
    ("/a?b=c&d", "/a", b"/a", b"b=c&d"),
    ("/a?b?c", "/a", b"/a", b"b?c"),
    ("/?%20=%C3%A9+1", "/", b"/", b"%20=%C3%A9+1"),
    ("/caf%C3%A9", "/café", b"/caf%C3%A9", b""),
    ("/caf%c3%a9", "/café", b"/caf%c3%a9", b""),
    ("/%F0%9F%92%A9", "/\U0001f4a9", b"/%F0%9F%92%A9", b""),
    ("/a%2Fb%3Fc%23", "/a/b?c#", b"/a%2Fb%3Fc%23", b""),
    ("/a%252F", "/a%2F", b"/a%252F", b""),
    ("/a+b%20c", "/a+b c", b"/a+b%20c", b""),
    ("/a%0D%0Ab", "/a\r\nb", b"/a%0D%0Ab", b""),
    ("/100%", "/100%", b"/100%", b""),
    ("/%zz%4", "/%zz%4", b"/%zz%4", b""),
    ("//a//../b/./", "//a//../b/./", b"//a//../b/./", b""),
    ("http://localhost/a?b", "/a", b"/a", b"b"),
    ("http://localhost", "/", b"/", b""),
    ("http://localhost?b", "/", b"/", b"b"),
]


@pytest.mark.parametrize(("target", "path", "raw_path", "query"), TARGETS)
def test_h1_h2_path_is_decoded_and_raw_path_and_query_are_as_they_came(
    serve: Serve, target: str, path: str, raw_path: bytes, query: bytes
) -> None:
    """ASGI H1, H2: `path` percent-decoded without query, `raw_path` without query too, `query_string` encoded."""
    scope = scope_of(serve, get(target))
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, raw_path, query)


def test_h1_path_that_is_not_utf_8_is_a_str_and_raw_path_has_its_bytes(serve: Serve) -> None:
    """ASGI H1, H2: a path is a str that can be encoded; what it stood for is in `raw_path`."""
    scope = scope_of(serve, get("/a%FFb%C3"))
    assert scope["path"].encode("utf-8").startswith(b"/a")
    assert scope["raw_path"] == b"/a%FFb%C3"


def test_h1_options_star_has_the_path_star(serve: Serve) -> None:
    """ASGI H1; RFC 9112 §3.2.4: the asterisk form is no path below the root."""
    scope = scope_of(serve, get("*", method="OPTIONS"))
    assert (scope["path"], scope["raw_path"]) == ("*", b"*")


def test_h3_scheme_is_that_of_the_connection_and_root_path_empty(serve: Serve) -> None:
    """ASGI H3: `scheme` is not empty, `root_path` defaults to "". A target that says https makes no https."""
    scope = scope_of(serve, get("https://localhost/a"))
    assert (scope["scheme"], scope["root_path"]) == ("http", "")


def test_h3_root_path_is_the_option_and_begins_the_path(serve: Serve) -> None:
    """ASGI H3: `root_path` is where the application is mounted; `path` includes it."""
    scope = scope_of(serve, get("/a%20b?c"), root_path="/api")
    assert (scope["root_path"], scope["path"]) == ("/api", "/api/a b")
    assert (scope["raw_path"], scope["query_string"]) == (b"/api/a%20b", b"c")


def test_h4_headers_keep_their_order_and_duplicates_in_lower_case(serve: Serve) -> None:
    """ASGI H4, H18: pairs of bytes, as they came; names in lower case, values without surrounding space."""
    lines = ["X-B: 2", "Cookie: a=1", "X-A:1", "x-b:   3\t", "COOKIE: b=2", "X-Empty:", "X-Text: caf\xe9 \xff"]
    scope = scope_of(serve, get("/", *lines))
    assert list(scope["headers"]) == [
        (b"host", b"localhost"), (b"x-b", b"2"), (b"cookie", b"a=1"), (b"x-a", b"1"), (b"x-b", b"3"),
        (b"cookie", b"b=2"), (b"x-empty", b""), (b"x-text", b"caf\xe9 \xff"),
    ]  # fmt: skip
    assert list(scope["headers"]) == list(scope["headers"]), "iterable twice"


def test_h5_pseudo_header_of_http_2_is_refused(serve: Serve) -> None:
    """ASGI H5: no pseudo header reaches the application."""
    seen = Recorder()
    with RawClient(serve(scope_recorder(seen)).port) as client:
        client.send(get("/", ":authority: evil.example"))
        assert client.read_answer().status == 400
        assert client.read_to_end() == b""
    assert seen.empty


def test_h5_authority_of_the_target_replaces_host_and_goes_first(serve: Serve) -> None:
    """ASGI H5; RFC 9112 §3.2.2: the authority of an absolute target replaces Host."""
    request = b"GET http://a.example:81/ HTTP/1.1\r\nX-A: 1\r\nHost: b.example\r\n\r\n"
    assert scope_of(serve, request)["headers"] == [(b"host", b"a.example:81"), (b"x-a", b"1")]


@pytest.mark.parametrize("request_bytes", [get(), handshake()], ids=["http", "websocket"])
def test_h6_client_and_server_are_the_addresses_of_the_connection(serve: Serve, request_bytes: bytes) -> None:
    """ASGI H6, W3: host as str, port as int."""
    seen = Recorder()
    with RawClient(serve(scope_recorder(seen)).port) as client:
        client.send(request_bytes)
        scope = seen.next()
        assert tuple(scope["client"]) == client.socket.getsockname()
        assert tuple(scope["server"]) == client.socket.getpeername()
        assert [type(item) for item in (*scope["client"], *scope["server"])] == [str, int, str, int]


def test_h6_address_of_ipv6_is_host_and_port_only(serve: Serve) -> None:
    """ASGI H6: two items, also where the system knows four."""
    seen = Recorder()
    with socket.socket(socket.AF_INET6) as client:
        try:
            client.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback address")
        server = serve(scope_recorder(seen), host="::1")
        client.connect(("::1", server.port))
        client.sendall(get())
        scope = seen.next()
        assert tuple(scope["client"]) == client.getsockname()[:2]
        assert tuple(scope["server"]) == ("::1", server.port)


def test_h6_on_a_unix_socket_server_is_its_path_and_client_none(serve: Serve, tmp_path: Path) -> None:
    """ASGI H6: `server` is [path, None] on a Unix socket, where a client has no address."""
    seen = Recorder()
    path = str(tmp_path / "socket")
    serve(scope_recorder(seen), uds=path)
    with httpx.Client(transport=httpx.HTTPTransport(uds=path)) as client:
        assert client.get("http://localhost/").status_code == 200
    scope = seen.next()
    assert (tuple(scope["server"]), scope["client"]) == ((path, None), None)


@pytest.mark.parametrize("protocol", ["http", "websocket"])
def test_h7_l8_state_is_a_shallow_copy_for_each_request(serve: Serve, protocol: str) -> None:
    """ASGI H7, L8: each scope has its own `state`, with the very objects that the lifespan put there."""
    seen = Recorder()
    shared = ["one object"]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.put(dict(scope["state"]))
        seen.put(scope["state"]["shared"])
        scope["state"]["mine"] = scope["path"]
        del scope["state"]["shared"]
        await (answer(send) if protocol == "http" else send({"type": "websocket.close"}))

    server = serve(with_lifespan(app, {"shared": shared}))
    for path in ("/one", "/two"):
        with RawClient(server.port) as client:
            client.send(get(path) if protocol == "http" else handshake(path))
            client.read_answer()
        assert seen.next() == {"shared": ["one object"]}
        assert seen.next() is shared


def test_h7_scope_of_an_app_without_lifespan_has_no_state(serve: Serve) -> None:
    """ASGI H7: `state` is missing where there is no lifespan to fill it."""
    assert "state" not in scope_of(serve, get())


def test_h17_each_request_of_a_connection_has_a_scope_of_its_own(serve: Serve) -> None:
    """ASGI H17: nothing that an application writes into one scope is seen in another."""
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        seen.put((scope["path"], list(scope["headers"]), dict(scope["asgi"]), dict(scope["extensions"])))
        for key in ("headers", "asgi", "extensions"):
            scope[key].clear()
        await answer(send)

    with RawClient(serve(app).port) as client:
        client.send(get("/one") + get("/two"))
        client.read_answer()
        client.read_answer()
    first, second = seen.next(), seen.next()
    assert (first[0], second[0]) == ("/one", "/two")
    assert first[1:] == second[1:]


# ---- the body


def test_h9_request_without_a_body_gives_one_empty_event(serve: Serve) -> None:
    """ASGI H9: `body` bytes, `more_body` bool."""
    seen = Recorder()
    with RawClient(serve(body_recorder(seen)).port) as client:
        client.send(get())
        assert client.read_answer().body == b"read"
    assert seen.next() == {"type": "http.request", "body": b"", "more_body": False}
    assert seen.empty


def read_body(seen: Recorder) -> bytes:
    """Give the body that `body_recorder` saw, having checked each event."""
    data: bytes = b""
    while True:
        event = seen.next()
        assert set(event) == {"type", "body", "more_body"}
        assert (event["type"], type(event["body"]), type(event["more_body"])) == ("http.request", bytes, bool)
        data += event["body"]
        if not event["more_body"]:
            return data


def send_in_pieces(server: RunningServer, seen: Recorder, pieces: list[bytes], decoded: list[bytes]) -> None:
    """Send each piece when the application has seen what the one before it held."""
    with RawClient(server.port) as client:
        for piece, data in zip(pieces, decoded, strict=True):
            client.send(piece)
            assert seen.next() == {"type": "http.request", "body": data, "more_body": piece is not pieces[-1]}
        assert client.read_answer().body == b"read"
    assert seen.empty


def test_h9_body_is_delivered_as_it_comes(serve: Serve) -> None:
    """ASGI H9: an application reads a part of a body before the client has sent the rest."""
    seen = Recorder()
    head = get("/", "Content-Length: 6", method="PUT")
    send_in_pieces(serve(body_recorder(seen)), seen, [head + b"ab", b"cd", b"ef"], [b"ab", b"cd", b"ef"])


def test_h8_chunked_body_is_decoded_as_it_comes(serve: Serve) -> None:
    """ASGI H8: body events hold decoded data only: no size, no extension, no trailer."""
    seen = Recorder()
    head = get("/", "Transfer-Encoding: chunked", method="PUT")
    pieces = [head + b"2;name=value\r\nab\r\n", b"00004\r\ncd\r\n", b"\r\n0\r\nX-Trailer: 1\r\n\r\n"]
    send_in_pieces(serve(body_recorder(seen)), seen, pieces, [b"ab", b"cd\r\n", b""])


@pytest.mark.parametrize("chunked", [False, True])
def test_h9_large_body_arrives_whole(serve: Serve, chunked: bool) -> None:
    """ASGI H9: a body of many reads, beyond what is held for the application, is neither cut nor reordered."""
    seen = Recorder()
    data = b"".join(b"%07d\n" % number for number in range(200_000))
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(data)}"
    with RawClient(serve(body_recorder(seen)).port) as client:
        sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data) if chunked else data
        client.send(get("/", framing, method="POST") + sent + get("/behind"))
        assert client.read_answer().body == b"read"
        assert client.read_answer().body == b"read"
    assert read_body(seen) == data
    assert read_body(seen) == b""


def test_h9_body_never_reaches_the_next_request(serve: Serve) -> None:
    """ASGI H9: what follows a body in the same packet is the next request."""
    seen = Recorder()
    with RawClient(serve(body_recorder(seen)).port) as client:
        client.send(
            get("/", "Content-Length: 3", method="POST") + b"one"
            + get("/", "Transfer-Encoding: chunked", method="POST") + b"3\r\ntwo\r\n0\r\n\r\n"
            + get("/", "Content-Length: 0", method="POST")
            + get("/", "Content-Length: 5", method="POST") + b"three"
        )  # fmt: skip
        for _ in range(4):
            assert client.read_answer().body == b"read"
    assert [read_body(seen) for _ in range(4)] == [b"one", b"two", b"", b"three"]


def test_h1_what_an_application_writes_into_its_scope_is_not_seen_by_the_next_request(serve: Serve) -> None:
    """ASGI C1: the same bytes sent again are another request, on this connection and on others."""
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        seen.put({name: copy.deepcopy(value) for name, value in scope.items() if name != "client"})
        scope["path"] = "/changed"
        scope["asgi"]["changed"] = scope["extensions"]["changed"] = True
        scope["extensions"]["http.response.early_hint"]["changed"] = True
        scope["headers"].append((b"x-changed", b"1"))
        await answer(send)

    server = serve(app)
    for _ in range(2):
        with RawClient(server.port) as client:
            for _ in range(2):
                client.send(get("/a?b", "X-A: b"))
                assert client.read_answer().status == 200
    first = seen.next()
    assert [seen.next() for _ in range(3)] == [first] * 3
