"""Connections before their first request: what is no TLS, handshakes that fail, stop or never end."""

from __future__ import annotations

import functools
import re
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from asgiws.server.state.registry import HANDING_OVER
from tests import PATIENCE_S
from tests.apps import echo
from tests.conftest import Serve
from tests.raw import RawClient, handshake, text
from tests.server_process import ServerProcess, Start
from tests.tls.certificates import Authority, HandmadeTLS, Issued, TLSClient, hello

ECHO = "tests.apps:echo"
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def still_serves(port: int, authority: Authority) -> bool:
    with TLSClient(port, authority.client_context()) as client:
        client.open_websocket()
        client.send(text("hello"))
        return client.read_text() == "hello"


def send_request(port: int, context: ssl.SSLContext) -> None:
    with TLSClient(port, context) as client:
        client.send(REQUEST)
        client.read_answer()


def assert_one_line_each(process: ServerProcess, pattern: str, count: int = 1) -> None:
    """So many lines say it, and nothing else was wrong."""
    process.terminate()
    assert process.wait() == 0
    process.rest_of_stderr()
    lines = [line for line in process.stderr if re.search(pattern, line)]
    assert len(lines) == count, process.stderr
    assert not any("Traceback" in line or "never retrieved" in line or " ERROR " in line for line in process.stderr)


# ---- what is no TLS


def test_listening_line_says_https(start: Start, server: Issued) -> None:
    assert start(ECHO, *server.flags).address.startswith("https://127.0.0.1:")


@pytest.mark.parametrize("data", [REQUEST, handshake(), b"POST / HTTP/1.1\r\nContent-Length: 3000000\r\n\r\n", b"g"])
def test_plain_http_gets_a_clear_400(start: Start, authority: Authority, server: Issued, data: bytes) -> None:
    """In plain text, because that is what the client reads."""
    process = start(ECHO, *server.flags)
    with RawClient(process.port) as client:
        client.send(data)
        answer = client.read_answer()
        assert answer.status == 400
        assert answer.header(b"connection") == b"close"
        assert answer.body == (
            b"plain-http-on-tls-port: plain HTTP on a port that speaks TLS; use https:// or wss://\n"
        )
        assert client.read_to_end() == b""
    assert still_serves(process.port, authority)
    assert_one_line_each(process, r"127\.0\.0\.1:\d+ +rejected \d+ -: plain HTTP .* \(plain-http-on-tls-port\)$")


def test_plain_http_answer_reaches_a_client_that_is_still_sending(serve: Serve, server: Issued) -> None:
    running = serve(echo, **server.options)
    with RawClient(running.port) as client:
        client.send(b"POST / HTTP/1.1\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 3_000_000)
        assert client.read_answer().status == 400


@pytest.mark.parametrize("data", [b"\x00", b"\x80\x2e\x01\x00\x02", b"\r\n", b"\xff" * 5000, b" GET / HTTP/1.1\r\n"])
def test_what_is_neither_is_closed_without_an_answer(
    start: Start, authority: Authority, server: Issued, data: bytes
) -> None:
    """0x80 began an SSL 2 hello."""
    process = start(ECHO, *server.flags)
    with RawClient(process.port) as client:
        client.send(data)
        assert client.read_to_end() == b""
    assert still_serves(process.port, authority)
    assert_one_line_each(process, rf"rejected 400 -: first byte {data[0]:#04x}, allowed: a TLS handshake \(not-tls\)$")


def test_connection_that_says_nothing_and_leaves_is_no_news(start: Start, server: Issued) -> None:
    """The health check of a load balancer."""
    process = start(ECHO, *server.flags)
    RawClient(process.port).socket.close()
    RawClient(process.port).reset()
    with RawClient(process.port) as client:
        client.send(REQUEST)
        assert client.read_answer().status == 400
    assert_one_line_each(process, "rejected")


# ---- handshakes that fail


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        b"\x16\x03\x01\xff\xff" + b"?" * 70_000,
        b"\x16" + b"\x00" * 100,
        b"\x16\x03\x03\x00\x04\x02\x00\x00\x00",
    ],
)
def test_garbage_for_a_handshake_is_one_line(start: Start, authority: Authority, server: Issued, data: bytes) -> None:
    process = start(ECHO, *server.flags)
    with RawClient(process.port) as client:
        client.send(data)
        client.half_close()
        client.read_to_end()
    assert still_serves(process.port, authority)
    assert_one_line_each(process, r"127\.0\.0\.1:\d+ +rejected \d+ -: .* \(tls-handshake\)$")


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("size", [1, 100, None])
def test_client_that_leaves_in_the_handshake_is_one_line(
    start: Start, authority: Authority, server: Issued, how: str, size: int | None
) -> None:
    process = start(ECHO, *server.flags)
    client = RawClient(process.port)
    client.send(hello(authority.client_context())[:size])
    # Its answer says that the connection before it was accepted and read
    assert still_serves(process.port, authority)
    client.reset() if how == "reset" else client.socket.close()
    process.wait_stderr(r"rejected 400 -: client left during the TLS handshake \(tls-handshake\)$")
    assert still_serves(process.port, authority)
    assert_one_line_each(process, "tls-handshake")


def test_client_that_does_not_trust_the_certificate_is_one_line(start: Start, server: Issued) -> None:
    """Its alert says why."""
    process = start(ECHO, *server.flags)
    with pytest.raises(ssl.SSLCertVerificationError):
        TLSClient(process.port, ssl.create_default_context())
    process.wait_stderr(r"rejected 400 -: tlsv1 alert unknown ca \(tls-handshake\)$")
    assert_one_line_each(process, "tls-handshake")


def test_version_below_the_least_is_refused(start: Start, authority: Authority, server: Issued) -> None:
    process = start(ECHO, *server.flags, "--ssl-min-version", "1.3")
    context = authority.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        TLSClient(process.port, context)
    assert_one_line_each(process, r"rejected 400 -: unsupported protocol \(tls-handshake\)$")


def test_ciphers_are_those_of_the_option(serve: Serve, authority: Authority, server: Issued) -> None:
    running = serve(echo, ssl_ciphers="ECDHE-ECDSA-AES128-GCM-SHA256", **server.options)
    context = authority.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with TLSClient(running.port, context) as client:
        assert client.socket.cipher()[0] == "ECDHE-ECDSA-AES128-GCM-SHA256"  # type: ignore[index] # it has one
    context.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
    with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
        TLSClient(running.port, context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("whose", ["none", "another authority's"])
def test_required_client_certificate_that_is_missing_or_foreign_is_told_to_the_client(
    serve: Serve, authority: Authority, server: Issued, tmp_path: Path, whose: str, version: ssl.TLSVersion
) -> None:
    """RFC 8446 §4.4.2.4: the alert arrives although the client is sending its request already."""
    running = serve(echo, ssl_client_cert="required", ssl_ca_certs=str(authority.file), **server.options)
    foreign = None if whose == "none" else Authority(tmp_path / "foreign").issue("mallory@example.com")
    context = authority.client_context(foreign)
    context.maximum_version = version
    alert = "CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE" if whose == "none" else "UNKNOWN_CA"
    # With TLS 1.3 the client's part of the handshake is done before the server has seen what is missing.
    with pytest.raises(ssl.SSLError, match=alert):
        send_request(running.port, context)
    assert running.call(lambda: running.server.counters.rejections["tls-handshake"]) == 1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed: apt-get install openssl")
def test_renegotiation_is_refused(serve: Serve, authority: Authority, server: Issued) -> None:
    """CVE-2011-1473: it would let one client repeat the costly part of a handshake."""
    running = serve(echo, head_timeout=1, **server.options)
    ended = subprocess.run(
        ["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{running.port}", "-CAfile", str(authority.file)],
        input="R\n", capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert "no renegotiation" in ended.stderr
    assert still_serves(running.port, authority)


# ---- handshakes that never end


def test_silent_connection_ends_after_the_handshake_timeout(serve: Serve, server: Issued) -> None:
    running = serve(echo, head_timeout=0.1, **server.options)
    with RawClient(running.port) as client:
        assert client.read_to_end() == b""
    assert not running.server.counters.rejections


def test_half_a_handshake_ends_after_the_handshake_timeout(serve: Serve, authority: Authority, server: Issued) -> None:
    running = serve(echo, head_timeout=0.1, **server.options)
    data = hello(authority.client_context())
    for part in (data[:50], data):
        with RawClient(running.port) as client:
            client.send(part)
            client.read_to_end()
    assert running.server.counters.rejections == {"tls-timeout": 2}


def test_half_open_handshakes_leave_others_served(start: Start, authority: Authority, server: Issued) -> None:
    """200 clients begin and say no more; they count as connections, and end with their deadline, few lines long."""
    process = start(ECHO, *server.flags, "--head-timeout", "3", "--max-connections", "201")
    data = hello(authority.client_context())
    clients = [RawClient(process.port) for _ in range(200)]
    for place, client in enumerate(clients):
        client.send(data[:60] if place % 2 else data)
    assert still_serves(process.port, authority)
    with TLSClient(process.port, authority.client_context()) as served:
        served.send(REQUEST)
        assert served.read_answer().status == 200
        with RawClient(process.port) as refused:
            # Number 202
            assert refused.read_to_end() == b""
        for client in clients:
            client.read_to_end()
            client.socket.close()
        served.send(REQUEST)
        assert served.read_answer().status == 200
    assert still_serves(process.port, authority)
    process.terminate()
    assert process.wait() == 0
    process.rest_of_stderr()
    assert any("too-many-connections" in line for line in process.stderr)
    assert 1 <= sum("(tls-timeout)" in line for line in process.stderr) <= 100


def test_connections_of_one_address_are_counted_from_the_handshake_on(
    serve: Serve, authority: Authority, server: Issued
) -> None:
    """And not twice, once the handshake is done."""
    running = serve(echo, max_connections_per_address=2, **server.options)
    with TLSClient(running.port, authority.client_context()) as served, RawClient(running.port) as begun:
        served.open_websocket()
        begun.send(hello(authority.client_context()))
        begun.read_exactly(5)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            TLSClient(running.port, authority.client_context())
        served.send(text("hello"))
        assert served.read_text() == "hello"
    assert running.server.counters.rejections["too-many-from-address"] == 1


@pytest.mark.parametrize("state", ["silent", "begun", "refused"])
def test_stop_does_not_wait_for_a_handshake(serve: Serve, authority: Authority, server: Issued, state: str) -> None:
    running = serve(echo, graceful_timeout=600, close_timeout=0.2, **server.options)
    with RawClient(running.port) as client:
        if state == "begun":
            client.send(hello(authority.client_context()))
            client.read_exactly(5)
        elif state == "refused":
            client.send(REQUEST)
            assert client.read_answer().status == 400
        # Its answer says that the connection before it was accepted
        assert still_serves(running.port, authority)
        running.stop()
        client.read_to_end()


def test_handshake_that_goes_on_while_another_process_takes_over_is_served(
    serve: Serve, authority: Authority, server: Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rolling restart: the connection was accepted here, so its first request is answered here, and is the last."""
    running = serve(echo, **server.options)
    monkeypatch.setattr(running.server, "stop", functools.partial(running.server.stop, replaced=True))
    with RawClient(running.port) as below:
        client = HandmadeTLS(below, authority.client_context())
        client.begin()
        running.begin_stop()
        while not running.call(lambda: running.server.worker.registry.phase >= HANDING_OVER):
            pass
        client.shake()
        client.send(REQUEST)
        answer = client.read_until(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer


@pytest.mark.parametrize(
    "options", [{"head_timeout": 600}, {"proxy_protocol": True, "head_timeout": 600}], ids=["tls", "proxy"]
)
def test_silent_connection_does_not_hold_up_a_process_that_is_replaced(
    serve: Serve, server: Issued, monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    """It is given a second, as an idle one is, and not its own deadline."""
    running = serve(echo, graceful_timeout=600, **options, **server.options)
    monkeypatch.setattr(running.server, "stop", functools.partial(running.server.stop, replaced=True))
    with RawClient(running.port) as silent:
        while not running.call(lambda: running.server.connection_count):
            pass
        running.begin_stop()
        assert silent.read_to_end() == b""
        running.stop()
