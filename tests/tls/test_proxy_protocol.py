"""The PROXY protocol in front of a server: whose connections they are, and who may say so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from asgiws.server.asgi import Scope
from tests.apps import Receive, Recorder, Send, echo, refuse_lifespan
from tests.conftest import RunningServer, Serve
from tests.protocol.test_proxy_protocol import ENDS4, LOCAL, TCP4, UNIX, tlv, v2
from tests.raw import RawClient, handshake, text
from tests.server_process import RunCommand, Start, assert_one_line
from tests.tls.certificates import Authority, HandmadeTLS, Issued, TLSClient, hello

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
V1 = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"
V2 = v2()
ENDS = [["192.0.2.1", 56324], ["198.51.100.2", 443]]


async def ends(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer who is at the two ends."""
    await refuse_lifespan(scope)
    body = json.dumps([scope["client"], scope["server"], scope["scheme"]]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def ask(client: RawClient) -> object:
    client.send(REQUEST)
    return client.read_answer().json()


def rejections(running: RunningServer) -> dict[str, int]:
    return dict(running.call(lambda: dict(running.server.counters.rejections)))


# ---- whose connection it is


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_ends_are_those_of_the_header(serve: Serve, header: bytes) -> None:
    running = serve(ends, proxy_protocol=True)
    with RawClient(running.port) as client:
        client.send(header)
        assert ask(client) == [*ENDS, "http"]
        assert ask(client) == [*ENDS, "http"]


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_header_and_request_may_come_together_or_byte_by_byte(serve: Serve, header: bytes) -> None:
    running = serve(ends, proxy_protocol=True)
    with RawClient(running.port) as client:
        client.send(header + REQUEST)
        assert client.read_answer().json() == [*ENDS, "http"]
    with RawClient(running.port) as client:
        for byte in header + REQUEST:
            client.send(bytes([byte]))
        assert client.read_answer().json() == [*ENDS, "http"]


def test_websocket_frames_behind_header_and_handshake_are_delivered(serve: Serve) -> None:
    running = serve(echo, proxy_protocol=True)
    with RawClient(running.port) as client:
        client.send(V2 + handshake() + text("early"))
        assert client.read_answer().status == 101
        assert client.read_text() == "early"


@pytest.mark.parametrize(
    "header", [b"PROXY UNKNOWN\r\n", v2(b"", 0x00, LOCAL), v2(ENDS4, TCP4, LOCAL)], ids=["unknown", "local", "local4"]
)
def test_health_check_of_the_proxy_keeps_its_own_address(serve: Serve, header: bytes) -> None:
    running = serve(ends, proxy_protocol=True)
    with RawClient(running.port) as client:
        client.send(header)
        name = client.socket.getsockname()
        assert ask(client) == [list(name), ["127.0.0.1", running.port], "http"]


def test_client_of_a_unix_socket_has_no_address(serve: Serve) -> None:
    running = serve(ends, proxy_protocol=True)
    with RawClient(running.port) as client:
        client.send(v2(b"/client".ljust(108, b"\0") + b"/run/s".ljust(108, b"\0"), UNIX))
        assert ask(client) == [None, ["/run/s", None], "http"]


def test_client_that_used_tls_towards_the_proxy_is_https(serve: Serve) -> None:
    """Of the encryption itself nothing is known, so there is no `tls` extension."""
    running = serve(ends, proxy_protocol=True)
    with RawClient(running.port) as client:
        client.send(v2(ENDS4 + tlv(0x20, b"\x01" + bytes(4))))
        assert ask(client) == [*ENDS, "https"]


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("together", [True, False])
def test_tls_follows_the_header(
    serve: Serve, authority: Authority, server: Issued, header: bytes, together: bool
) -> None:
    running = serve(ends, proxy_protocol=True, **server.options)
    if not together:
        with TLSClient(running.port, authority.client_context(), before=header) as client:
            assert ask(client) == [*ENDS, "https"]
        return
    with RawClient(running.port) as below:
        tls = HandmadeTLS(below, authority.client_context(), before=header)
        tls.shake()
        tls.send(REQUEST)
        assert b'"192.0.2.1"' in tls.read_until(b"https")


def test_plain_http_behind_the_header_on_a_tls_port_gets_400(serve: Serve, server: Issued) -> None:
    running = serve(ends, proxy_protocol=True, **server.options)
    with RawClient(running.port) as client:
        client.send(V1 + REQUEST)
        assert client.read_answer().status == 400
    assert rejections(running) == {"plain-http-on-tls-port": 1}


def test_log_lines_name_the_client_of_the_header(start: Start) -> None:
    process = start("tests.apps:echo", "--proxy-protocol")
    with RawClient(process.port) as client:
        client.send(V1 + b"BAD\r\n\r\n")
        assert client.read_answer().status == 400
    process.wait_stderr(r"192\.0\.2\.1:56324 +rejected 400 -: ")


def test_connections_are_limited_by_the_address_of_the_header(serve: Serve) -> None:
    """All of them come from the proxy."""
    running = serve(ends, proxy_protocol=True, max_connections_per_address=1)
    with RawClient(running.port) as first, RawClient(running.port) as other, RawClient(running.port) as second:
        for client, header in ((first, V1), (other, V1.replace(b"192.0.2.1", b"192.0.2.9"))):
            client.send(header)
            ask(client)
        second.send(V1)
        assert second.read_answer().status == 503


# ---- who may say so


@pytest.mark.parametrize("header", [REQUEST, b"\x16\x03\x01", b"PROXY TCP4 x y 1 2\r\n", v2(command=0x11), b"\0"])
def test_connection_without_a_proper_header_is_closed_without_an_answer(start: Start, header: bytes) -> None:
    """§2: the receiver must not guess."""
    process = start("tests.apps:echo", "--proxy-protocol")
    with RawClient(process.port) as client:
        client.send(header)
        assert client.read_to_end() == b""
    line = process.wait_stderr("rejected")
    assert re.search(
        r"127\.0\.0\.1:\d+ +rejected \d+ -: .*, allowed: PROXY protocol version 1 or 2 \(bad-proxy-header\)$", line
    )


def test_stranger_is_cut_off(start: Start) -> None:
    process = start("tests.apps:echo", "--proxy-protocol", "--proxy-protocol-allow-ips", "10.0.0.0/8,::1")
    with RawClient(process.port) as client:
        assert client.read_to_end() == b""
    line = process.wait_stderr("rejected")
    assert line.endswith("rejected 403 -: not one of the proxies, allowed: 10.0.0.0/8,::1 (proxy-not-allowed)")


@pytest.mark.parametrize("allowed", ["127.0.0.0/8", "*", "::1,127.0.0.1"])
def test_proxy_in_the_list_is_believed(start: Start, allowed: str) -> None:
    process = start("tests.runner.apps:facts", "--proxy-protocol", "--proxy-protocol-allow-ips", allowed)
    with RawClient(process.port) as client:
        client.send(V1)
        answer = ask(client)
    assert isinstance(answer, list)
    assert answer[2:] == ENDS


@pytest.mark.parametrize(("allowed", "served"), [("unix", True), ("127.0.0.1", False)])
def test_proxy_on_a_unix_socket_has_to_be_named(start: Start, tmp_path: Path, allowed: str, served: bool) -> None:
    path = str(tmp_path / "app.sock")
    process = start("tests.runner.apps:facts", "--uds", path, "--proxy-protocol", "--proxy-protocol-allow-ips", allowed)
    with RawClient.unix(path) as client:
        if served:
            client.send(V2)
            answer = ask(client)
            assert isinstance(answer, list)
            assert answer[2:] == ENDS
        else:
            assert client.read_to_end() == b""
            process.wait_stderr(r"- +rejected 403 -: not one of the proxies, .* \(proxy-not-allowed\)$")


def test_client_that_left_before_it_was_accepted_is_no_client_of_a_unix_socket(serve: Serve) -> None:
    """A reset takes the address away, but not always the bytes that came before it."""
    scopes = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        scopes.put(scope["client"][0])
        await ends(scope, receive, send)

    running = serve(app, proxy_protocol=True, proxy_protocol_allow_ips="unix,127.0.0.1")

    def come_and_go() -> None:
        """In the server's thread, so that it accepts afterwards."""
        client = RawClient(running.port)
        client.send(V1 + REQUEST)
        client.reset()

    running.call(come_and_go)
    with RawClient(running.port) as client:
        client.send(V1.replace(b"192.0.2.1", b"192.0.2.9"))
        ask(client)
    assert scopes.next() == "192.0.2.9"
    assert rejections(running) == {}


def test_name_for_an_address_is_a_usage_error(run_command: RunCommand) -> None:
    ended = run_command("tests.apps:echo", "--proxy-protocol-allow-ips", "localhost")
    assert_one_line(ended, 2, "--proxy-protocol-allow-ips: 'localhost' was given, allowed: an address, a network")


# ---- ends


@pytest.mark.parametrize("part", [b"", V1[:20], V2[:14], V2[:20]], ids=["nothing", "v1", "v2-fixed", "v2"])
def test_header_that_does_not_come_ends_after_the_head_timeout(serve: Serve, part: bytes) -> None:
    running = serve(ends, proxy_protocol=True, head_timeout=0.1)
    with RawClient(running.port) as client:
        client.send(part)
        assert client.read_to_end() == b""
    assert rejections(running) == {"proxy-timeout": 1}


def test_proxy_that_leaves_without_a_byte_is_no_news_and_one_that_began_is(serve: Serve) -> None:
    running = serve(ends, proxy_protocol=True)
    RawClient(running.port).socket.close()
    with RawClient(running.port) as client:
        client.send(V2[:20])
        client.half_close()
        assert client.read_to_end() == b""
    assert rejections(running) == {"bad-proxy-header": 1}


@pytest.mark.parametrize("tls", [True, False])
def test_stop_does_not_wait_for_a_header(serve: Serve, authority: Authority, server: Issued, tls: bool) -> None:
    running = serve(ends, proxy_protocol=True, graceful_timeout=600, **(server.options if tls else {}))
    with RawClient(running.port) as silent, RawClient(running.port) as begun, RawClient(running.port) as asked:
        begun.send(V1[:10])
        asked.send(V1 + (hello(authority.client_context()) if tls else REQUEST))
        asked.read_exactly(5)
        running.stop()
        for client in (silent, begun):
            assert client.read_to_end() == b""


def test_connections_count_from_the_accept_on(serve: Serve) -> None:
    running = serve(ends, proxy_protocol=True, max_connections=2)
    with RawClient(running.port) as silent, RawClient(running.port) as served, RawClient(running.port) as third:
        served.send(V1)
        ask(served)
        assert third.read_to_end() == b""
        silent.send(V1)
        assert ask(silent) == [*ENDS, "http"]
    assert rejections(running) == {"too-many-connections": 1}


def test_without_the_option_a_header_is_no_request(serve: Serve) -> None:
    running = serve(ends)
    with RawClient(running.port) as client:
        client.send(V1 + REQUEST)
        assert client.read_answer().status == 400


def test_client_of_plain_http_that_left_before_it_was_accepted_has_an_empty_address(serve: Serve) -> None:
    """None is for Unix sockets, whose clients an operator may trust to name others."""
    scopes = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        scopes.put(scope["client"])
        await ends(scope, receive, send)

    running = serve(app)

    def come_and_go() -> None:
        client = RawClient(running.port)
        client.send(REQUEST)
        client.reset()

    running.call(come_and_go)
    with RawClient(running.port) as client:
        name = client.socket.getsockname()
        ask(client)
    seen = [scopes.next()]
    while seen[-1] != name:
        seen.append(scopes.next())
    # Whether the bytes before a reset are read is the loop's affair.
    assert seen in ([name], [("", 0), name])
