"""Who is believed, and what that changes: in scopes, log lines and limits; the proxy here is a socket of the test's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from asgiws.config.option import OptionError
from asgiws.config.options import Config
from tests.asgi.app_help import wait_connections
from tests.conftest import Serve
from tests.proxies.apps import Behind
from tests.raw import RawClient, handshake, text
from tests.server_process import RunCommand, Start, assert_one_line

BEHIND = "tests.proxies.apps:behind"
ALL_X = "x-forwarded-for,x-forwarded-proto,x-forwarded-host,x-forwarded-prefix"
CLIENT = ["192.0.2.1", 0]
FOR = "X-Forwarded-For: 192.0.2.1"

app = Behind(lambda *words: None)


def ask(client: RawClient, *fields: str, path: str = "/") -> dict[str, Any]:
    """Send a request with extra fields; gives what its scope says."""
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", *fields]
    client.send("\r\n".join(lines).encode() + b"\r\n\r\n")
    facts = client.read_answer().json()
    assert isinstance(facts, dict)
    return facts


def ask_websocket(client: RawClient, *fields: str, path: str = "/?facts=1") -> dict[str, Any]:
    """The same for a WebSocket."""
    client.open_websocket(path, *fields)
    facts = json.loads(client.read_text())
    assert isinstance(facts, dict)
    return facts


# ---- who is believed


def test_proxy_on_this_machine_is_believed_by_default(serve: Serve) -> None:
    """As uvicorn: only who runs here can connect from a loopback address."""
    server = serve(app)
    with RawClient(server.port) as client:
        facts = ask(client, FOR, "X-Forwarded-Proto: https")
        assert (facts["client"], facts["scheme"]) == (CLIENT, "https")
    with RawClient(server.port) as client:
        facts = ask_websocket(client, FOR, "X-Forwarded-Proto: https")
        assert (facts["client"], facts["scheme"]) == (CLIENT, "wss")


def test_other_address_is_not_believed(serve: Serve) -> None:
    server = serve(app)
    with RawClient(server.port, source="127.0.0.2") as client:
        facts = ask(client, FOR, "X-Forwarded-Proto: https")
        assert (facts["client"], facts["scheme"]) == (list(client.socket.getsockname()), "http")
    with RawClient(server.port, source="127.0.0.2") as client:
        facts = ask_websocket(client, FOR, "X-Forwarded-Proto: https")
        assert (facts["client"], facts["scheme"]) == (list(client.socket.getsockname()), "ws")


@pytest.mark.parametrize(
    ("allowed", "believed"),
    [("127.0.0.2", True), ("127.0.0.0/30", True), ("10.0.0.0/8, 127.0.0.2", True), ("*", True), ("unix", False),
     ("127.0.0.4/30", False), ("", False)],
)  # fmt: skip
def test_allowed_addresses_and_networks_are_believed(serve: Serve, allowed: str, believed: bool) -> None:
    server = serve(app, forwarded_allow_ips=allowed)
    with RawClient(server.port, source="127.0.0.2") as client:
        assert (ask(client, FOR)["client"] == CLIENT) is believed


@pytest.mark.parametrize(("allowed", "client"), [("unix", CLIENT), ("*", CLIENT), ("127.0.0.1", None)])
def test_unix_socket_is_believed_when_it_is_allowed(serve: Serve, tmp_path: Path, allowed: str, client: object) -> None:
    path = str(tmp_path / "app.sock")
    serve(app, uds=path, forwarded_allow_ips=allowed)
    with RawClient.unix(path) as socket:
        assert ask(socket, FOR)["client"] == client


def test_nobody_is_believed_without_proxy_headers(serve: Serve) -> None:
    server = serve(app, proxy_headers=False, forwarded_allow_ips="*")
    with RawClient(server.port) as client:
        assert ask(client, FOR)["client"] == list(client.socket.getsockname())


def test_allowed_addresses_come_from_the_variable_that_uvicorn_reads(start: Start) -> None:
    process = start(BEHIND, environ={"FORWARDED_ALLOW_IPS": "127.0.0.2,10.0.0.0/8"})
    with RawClient(process.port, source="127.0.0.2") as client:
        assert ask(client, FOR)["client"] == CLIENT
    with RawClient(process.port) as client:
        assert ask(client, FOR)["client"] == list(client.socket.getsockname())


# ---- which fields are believed


@pytest.mark.parametrize("field", ["Forwarded: for=192.0.2.1;proto=https;host=evil.example", "X-Real-IP: 192.0.2.1"])
def test_field_that_is_not_named_is_not_believed(serve: Serve, field: str) -> None:
    """A proxy passes on what it does not know, so a client can send it."""
    server = serve(app)
    with RawClient(server.port) as client:
        facts = ask(client, field, "X-Forwarded-Host: evil.example", "X-Forwarded-Prefix: /evil")
        assert facts["client"] == list(client.socket.getsockname())
        assert (facts["scheme"], facts["headers"]["host"], facts["root_path"]) == ("http", "localhost", "")


def test_x_forwarded_for_is_not_believed_where_forwarded_is(serve: Serve) -> None:
    server = serve(app, forwarded_fields="forwarded")
    with RawClient(server.port) as client:
        facts = ask(client, "X-Forwarded-For: 203.0.113.9", "Forwarded: for=192.0.2.1;proto=https;host=a.example")
        assert (facts["client"], facts["scheme"], facts["headers"]["host"]) == (CLIENT, "https", "a.example")


def test_both_families_together_are_refused() -> None:
    with pytest.raises(OptionError, match=r"either forwarded or x-forwarded-for, -proto and -host"):
        Config(forwarded_fields=("forwarded", "x-forwarded-for"))
    Config(forwarded_fields=("forwarded", "x-forwarded-prefix"))


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--forwarded-allow-ips", "localhost", "an address, a network such as 10.0.0.0/8"),
        ("--forwarded-fields", "x-real-ip", "x-forwarded-for, x-forwarded-proto, x-forwarded-host"),
        ("--forwarded-fields", "forwarded,x-forwarded-for", "either forwarded or"),
    ],
)
def test_bad_option_is_refused_in_one_line(run_command: RunCommand, option: str, value: str, allowed: str) -> None:
    assert_one_line(run_command(BEHIND, option, value), 2, option, allowed)


# ---- what it changes


def test_client_belongs_to_the_request_not_to_the_connection(serve: Serve) -> None:
    """A proxy sends the requests of many clients on one connection, also at once."""
    server = serve(app)
    with RawClient(server.port) as proxy:
        assert ask(proxy, "X-Forwarded-For: 192.0.2.1:4711")["client"] == ["192.0.2.1", 4711]
        assert ask(proxy, "X-Forwarded-For: 2001:db8::1")["client"] == ["2001:db8::1", 0]
        assert ask(proxy)["client"] == list(proxy.socket.getsockname())
        requests = [f"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.{n}\r\n\r\n" for n in range(3)]
        proxy.send("".join(requests).encode())
        answers = [proxy.read_answer().json() for _ in requests]
        assert [answer["client"] for answer in answers if isinstance(answer, dict)] == [
            [f"192.0.2.{n}", 0] for n in range(3)
        ]


def test_host_replaces_the_host_field(serve: Serve) -> None:
    """Frameworks make links from it; the field that said so stays, Django reads it."""
    server = serve(app, forwarded_fields=ALL_X)
    with RawClient(server.port) as client:
        facts = ask(client, FOR, "X-Forwarded-Host: shop.example:8443")
        assert facts["headers"] == {
            "host": "shop.example:8443", "x-forwarded-for": "192.0.2.1", "x-forwarded-host": "shop.example:8443",
        }  # fmt: skip
        assert ask(client, "X-Forwarded-Host: a b")["headers"]["host"] == "localhost"
        assert ask_websocket(client, "X-Forwarded-Host: shop.example")["headers"]["host"] == "shop.example"


def test_prefix_is_the_root_path(serve: Serve) -> None:
    """In place of the option's: what one request says is nearer to the truth than what was written down once."""
    server = serve(app, forwarded_fields=ALL_X, root_path="/old")
    with RawClient(server.port) as client:
        facts = ask(client, "X-Forwarded-Prefix: /shop/", path="/cart%20")
        assert (facts["root_path"], facts["path"], facts["raw_path"]) == ("/shop", "/shop/cart ", "/shop/cart%20")
        assert ask(client)["root_path"] == "/old"
        assert ask(client, "X-Forwarded-Prefix: //evil.example")["root_path"] == "/old"
        assert ask(client, "X-Forwarded-Prefix: /")["root_path"] == ""
    with RawClient(server.port) as client:
        facts = ask_websocket(client, "X-Forwarded-Prefix: /shop", path="/cart?facts=1")
        assert (facts["root_path"], facts["path"]) == ("/shop", "/shop/cart")


def test_access_lines_and_rejections_name_the_client(start: Start) -> None:
    process = start(BEHIND, "--max-body-size", "5", "--allowed-origins", "https://shop.example")
    with RawClient(process.port) as client:
        ask(client, FOR)
        process.wait_stderr(r'192\.0\.2\.1:0 +"GET / HTTP/1\.1" 200')
        head = b"POST /length HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.send(head + b"6\r\n123456\r\n0\r\n\r\n")
        process.wait_stderr(r"192\.0\.2\.7:0 +rejected .*body-too-large")
    with RawClient(process.port) as client:
        client.open_websocket("/", FOR)
        process.wait_stderr(r'192\.0\.2\.1:0 +"WebSocket /" open')
        client.send(text("a"))
        client.reset()
        process.wait_stderr(r'192\.0\.2\.1:0 +"WebSocket /" closed 1006')
    with RawClient(process.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nX-Forwarded-For: 192.0.2.8\r\n\r\n")
        process.wait_stderr(r"192\.0\.2\.8:0 +rejected .*handshake-connection")


def test_head_that_is_no_head_is_the_connections_fault(start: Start) -> None:
    """Also behind a request of somebody: whose it is nobody has said."""
    process = start(BEHIND)
    with RawClient(process.port) as client:
        ask(client, FOR)
        client.send(b"GET / HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")
        process.wait_stderr(rf"127\.0\.0\.1:{client.socket.getsockname()[1]} +rejected .*missing-host")


def test_handshake_rate_counts_the_clients_address(serve: Serve) -> None:
    server = serve(app, handshake_rate=1)

    def status(address: str) -> int:
        with RawClient(server.port) as client:
            client.send(handshake("/", f"X-Forwarded-For: {address}"))
            return client.read_answer().status

    # The count begins anew each second, so two may pass.
    assert 429 in [status("192.0.2.1") for _ in range(3)]
    assert status("192.0.2.2") == 101


@pytest.mark.parametrize("kind", ["done", "open", "websocket"])
def test_connection_limit_counts_the_proxys_connections(serve: Serve, kind: str) -> None:
    """In and out: each is counted under the address that it came from, whatever its requests have said."""
    server = serve(app, max_connections_per_address=1)
    for _ in range(2):
        with RawClient(server.port) as client:
            if kind == "websocket":
                ask_websocket(client, FOR)
            elif kind == "done":
                ask(client, FOR)
            else:
                client.send(b"GET /endless HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")
                client.read_until(b"begun")
            with RawClient(server.port) as second:
                assert second.read_answer().status == 503
        wait_connections(server, 0)


def test_lost_upgrade_is_told_in_the_log(start: Start) -> None:
    """It is an ordinary request to the application; what made it one, only the operator can change."""
    process = start(BEHIND)
    with RawClient(process.port) as client:
        assert ask(client, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13")["type"] == "http"
    process.wait_stderr(r"Sec-WebSocket-Key without Upgrade: websocket.*nginx needs proxy_http_version 1\.1")
