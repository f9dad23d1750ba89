"""WebSockets through real nginx and HAProxy: messages, ends, and how long a quiet connection lives."""

from __future__ import annotations

import json
import os

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests import PATIENCE_S
from tests.proxies.conftest import StartSite
from tests.proxies.fronts import Authority, Front
from tests.raw import RawClient, close, frame, handshake, text

# What is edited so that a proxy gives up after two seconds in which nothing has come
SHORT = {"nginx": {"proxy_read_timeout 60s": "proxy_read_timeout 2s"},
         "haproxy": {"timeout tunnel 60s": "timeout tunnel 2s"}}  # fmt: skip


def talk(front: Front, path: str = "/", *subprotocols: str) -> ClientConnection:
    return connect(
        front.ws_url + path,
        proxy=None,
        ssl=front.authority.context if front.authority else None,
        subprotocols=[Subprotocol(name) for name in subprotocols] or None,
        max_size=None,
    )


def test_messages_of_every_shape_come_back(site: StartSite) -> None:
    with talk(site().front) as client:
        assert [extension.name for extension in client.protocol.extensions] == ["permessage-deflate"]
        for message in ("hello", "", "grüße \U0001f600", b"\x00\xff", b"", "long " * 200_000, os.urandom(1 << 20)):
            client.send(message)
            assert client.recv(PATIENCE_S) == message
        client.send(["frag", "ment", "ed"])
        assert client.recv(PATIENCE_S) == "fragmented"


def test_messages_cross_without_compression_in_a_burst(site: StartSite) -> None:
    with site().front.connect() as client:
        client.open_websocket()
        client.send(b"".join(text(f"message {number}") for number in range(500)))
        assert [client.read_text() for _ in range(500)] == [f"message {number}" for number in range(500)]


def test_message_sent_with_the_handshake_is_answered(site: StartSite) -> None:
    """A client may not wait for the 101; a proxy passes on what comes behind it."""
    with site().front.connect() as client:
        client.send(handshake() + text("early"))
        assert client.read_answer().status == 101
        assert client.read_text() == "early"


def test_subprotocol_and_tls_at_the_proxy(site: StartSite, authority: Authority) -> None:
    with talk(site(authority=authority).front, "/?facts=1", "other", "chat") as client:
        assert client.subprotocol == "chat"
        facts = json.loads(client.recv(PATIENCE_S))
        assert facts["scheme"] == "wss"
        client.send("secret")
        assert client.recv(PATIENCE_S) == "secret"


def test_refusal_in_place_of_the_handshake_reaches_the_client(site: StartSite) -> None:
    with site().front.connect() as client:
        client.send(handshake("/denied"))
        answer = client.read_answer()
        assert (answer.status, answer.body) == (418, b"tea")


# ---- ends


def test_clients_close_reaches_the_application(site: StartSite) -> None:
    running = site()
    with running.front.connect() as client:
        client.open_websocket()
        client.send(close(4001, "bye"))
        assert client.read_close() == (4001, "")
        assert client.read_to_end() == b""
    running.server.wait_stdout(r"^websocket\.disconnect 4001 bye$")


def test_applications_close_reaches_the_client(site: StartSite) -> None:
    with talk(site().front, "/closing") as client, pytest.raises(ConnectionClosed) as closed:
        client.recv(PATIENCE_S)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4002, "over")


def test_violation_is_answered_through_the_proxy(site: StartSite) -> None:
    running = site()
    with running.front.connect() as client:
        client.open_websocket()
        client.send(frame(3, b"?"))
        assert client.read_close()[0] == 1002
        assert client.read_to_end() == b""
    running.server.wait_stdout(r"^websocket\.disconnect 1002 ")


def test_client_that_vanishes_is_1006_to_the_application(site: StartSite) -> None:
    running = site()
    with running.front.connect() as client:
        client.open_websocket()
        running.server.wait_stdout("^open$")
        client.reset()
    running.server.wait_stdout(r"^websocket\.disconnect 1006 $")


def test_server_that_stops_closes_with_1012_through_the_proxy(site: StartSite) -> None:
    running = site()
    with running.front.connect() as client:
        client.open_websocket()
        running.server.terminate()
        client.be_closed(1012, "service restart")
    assert running.server.wait() == 0


# ---- quiet connections


@pytest.mark.slow
def test_pings_keep_a_quiet_connection_alive_beyond_the_proxys_timeout(site: StartSite, kind: str) -> None:
    """Nine intervals of 0.3 s are longer than the two seconds after which the proxy gives up."""
    running = site("--ping-interval", "0.3", edits=SHORT[kind])
    with running.front.connect() as client:
        client.open_websocket()
        for _ in range(9):
            answer_ping(client)
        client.send(text("still here"))
        assert client.read_text() == "still here"


@pytest.mark.slow
def test_proxy_cuts_a_quiet_connection_without_pings(site: StartSite, kind: str) -> None:
    running = site("--ping-interval", "0", edits=SHORT[kind])
    with running.front.connect() as client:
        client.open_websocket()
        assert client.read_to_end() == b""
    running.server.wait_stdout(r"^websocket\.disconnect 1006 $")


def answer_ping(client: RawClient) -> None:
    first, payload = client.read_frame()
    assert first == 0x89
    client.send(frame(10, payload))
