"""Limits over TLS and behind the PROXY protocol: handshakes that wait, and clients that are told why."""

from __future__ import annotations

import ssl

import pytest

from tests.apps import echo
from tests.conftest import Serve
from tests.limits.admission import Doorman, wait_until, waiting
from tests.raw import RawClient, close, handshake, text
from tests.tls.certificates import Authority, Issued, TLSClient

PROXY = b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 443\r\n"


def assert_refused(client: RawClient, rule: str) -> None:
    """A 101, a Close with the hint, and with TLS a close_notify, which this kind of client insists on."""
    client.send(handshake())
    assert client.read_answer().status == 101
    code, reason = client.read_close()
    assert (code, reason.partition("=")[0]) == (1013, f"{rule} retry-after")
    client.send(close(1013))
    assert client.read_to_end() == b""


def test_handshake_over_tls_waits_for_its_turn_or_leaves(serve: Serve, authority: Authority, server: Issued) -> None:
    app, context = Doorman(), authority.client_context()
    running = serve(app, graceful_timeout=0.1, max_opening=1, **server.options)
    first, left, third = (TLSClient(running.port, context) for _ in range(3))
    with first, third:
        first.send(handshake("/1"))
        assert app.asked.next() == "/1"
        for count, client in enumerate((left, third), 1):
            client.send(handshake(f"/{count + 1}") + text("early"))
            wait_until(lambda count=count: waiting(running) == count)  # type: ignore[misc]
        left.socket.close()
        wait_until(lambda: waiting(running) == 1)
        app.answer(running, "/1")
        assert app.asked.next() == "/3"
        app.answer(running, "/3")
        assert third.read_answer().status == 101
        assert third.read_text() == "early"


@pytest.mark.parametrize("option", ["max_connections", "max_connections_per_address"])
def test_client_over_the_limit_is_told_over_tls(
    serve: Serve, authority: Authority, server: Issued, option: str
) -> None:
    """Only with `--refusal close`: the answer takes a TLS handshake, and without it the client is disconnected."""
    rule = {"max_connections": "too-many-connections"}.get(option, "too-many-from-address")
    running = serve(echo, refusal="close", **{option: 1}, **server.options)
    with TLSClient(running.port, authority.client_context()) as first:
        first.open_websocket()
        with TLSClient(running.port, authority.client_context()) as second:
            assert_refused(second, rule)
        first.send(text("hello"))
        assert first.read_text() == "hello"
    wait_until(lambda: running.call(lambda: running.server.worker.admission.admitted) == 0)


def test_refused_clients_over_tls_are_bounded(serve: Serve, authority: Authority, server: Issued) -> None:
    running = serve(echo, refusal="close", max_connections=1, **server.options)
    with TLSClient(running.port, authority.client_context()) as first:
        first.open_websocket()
        idle = [RawClient(running.port) for _ in range(256)]
        wait_until(lambda: running.server.connection_count == 257)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            TLSClient(running.port, authority.client_context())
        for client in idle:
            client.socket.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_client_over_the_limit_is_told_through_a_proxy(
    serve: Serve, authority: Authority, server: Issued, tls: bool
) -> None:
    """The limit by address counts the client that the PROXY header names."""
    options = server.options if tls else {}
    running = serve(echo, refusal="close", proxy_protocol=True, max_connections_per_address=1, **options)

    def client() -> RawClient:
        if tls:
            return TLSClient(running.port, authority.client_context(), before=PROXY)
        plain = RawClient(running.port)
        plain.send(PROXY)
        return plain

    with client() as first:
        first.open_websocket()
        with client() as second:
            assert_refused(second, "too-many-from-address")
