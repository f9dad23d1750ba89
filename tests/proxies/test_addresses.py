"""Whom a request comes from behind real nginx and HAProxy, alone and one behind the other, and clients that lie.

The client connects from 127.0.0.2, which nobody trusts; proxies and server have 127.0.0.1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.proxies.conftest import BEHIND, StartSite
from tests.proxies.fronts import Authority, Front, StartFront, fragments
from tests.raw import RawClient
from tests.server_process import Start

CLIENT = "127.0.0.2"
LIES = (
    "X-Forwarded-For: 203.0.113.9",
    "X-Forwarded-For: 127.0.0.1, 127.0.0.1",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil.example",
    "X-Forwarded-Prefix: //evil.example",
    "Forwarded: for=203.0.113.9;proto=https;host=evil.example",
)
# nginx with Forwarded in place of the two X-Forwarded lines
X_LINES = (
    "        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n"
    "        proxy_set_header X-Forwarded-Proto $scheme;\n"
)


def forwarded_edits(line: str) -> dict[str, str]:
    """Give the edits of nginx's fragment that the README's two small ones are for."""
    return {"map $http_upgrade": fragments("nginx")[1] + "map $http_upgrade", X_LINES: line}


def ask(client: RawClient, *fields: str) -> dict[str, Any]:
    """Send a request with extra fields; gives what its scope says."""
    lines = ["GET /path HTTP/1.1", "Host: shop.example:8080", *fields]
    client.send("\r\n".join(lines).encode() + b"\r\n\r\n")
    facts = client.read_answer().json()
    assert isinstance(facts, dict)
    return facts


def ask_websocket(front: Front, *fields: str) -> dict[str, Any]:
    """The same for a WebSocket."""
    with front.connect(CLIENT) as client:
        client.open_websocket("/?facts=1", *fields)
        facts = json.loads(client.read_text())
        assert isinstance(facts, dict)
        return facts


@pytest.mark.promise
def test_client_address_scheme_and_host_are_the_clients_own(site: StartSite) -> None:
    front = site().front
    with front.connect(CLIENT) as client:
        facts = ask(client)
        assert (facts["client"], facts["scheme"], facts["headers"]["host"]) == (
            [CLIENT, 0],
            "http",
            "shop.example:8080",
        )
        assert (facts["http_version"], facts["path"], facts["root_path"]) == ("1.1", "/path", "")
    facts = ask_websocket(front)
    assert (facts["client"], facts["scheme"]) == ([CLIENT, 0], "ws")


def test_tls_at_the_proxy_makes_https_and_wss(site: StartSite, authority: Authority) -> None:
    front = site(authority=authority).front
    with front.connect(CLIENT) as client:
        assert ask(client)["scheme"] == "https"
    assert ask_websocket(front)["scheme"] == "wss"


def test_client_that_sends_the_fields_itself_gains_nothing(site: StartSite) -> None:
    front = site().front
    with front.connect(CLIENT) as client:
        facts = ask(client, *LIES)
        assert (facts["client"], facts["scheme"], facts["headers"]["host"]) == (
            [CLIENT, 0],
            "http",
            "shop.example:8080",
        )
        assert facts["root_path"] == ""
    facts = ask_websocket(front, *LIES)
    assert (facts["client"], facts["scheme"], facts["root_path"]) == ([CLIENT, 0], "ws", "")


def test_clients_on_one_upstream_connection_keep_apart(site: StartSite) -> None:
    front = site().front
    for source in (CLIENT, "127.0.0.3", CLIENT):
        with front.connect(source) as client:
            assert ask(client)["client"] == [source, 0]


def test_access_lines_name_the_client(site: StartSite) -> None:
    running = site()
    with running.front.connect(CLIENT) as client:
        ask(client)
    running.server.wait_stderr(rf'{CLIENT}:0 +"GET /path HTTP/1\.1" 200')
    ask_websocket(running.front)
    running.server.wait_stderr(rf'{CLIENT}:0 +"WebSocket /" open')
    running.server.wait_stderr(rf'{CLIENT}:0 +"WebSocket /" closed 1006')


def test_proxy_that_is_not_trusted_is_the_client(start: Start, nginx: StartFront) -> None:
    server = start(BEHIND, "--forwarded-allow-ips", "10.0.0.0/8")
    with nginx(server.address).connect(CLIENT) as client:
        facts = ask(client)
        assert (facts["client"][0], facts["headers"]["x-forwarded-for"]) == ("127.0.0.1", CLIENT)


# ---- one behind the other


def test_nginx_behind_haproxy_gives_the_client_of_haproxy(
    start: Start, nginx: StartFront, haproxy: StartFront, authority: Authority
) -> None:
    """The scheme is that of the outer one, which ends TLS; nginx passes it on, as the README says."""
    server = start(BEHIND)
    inner = nginx(server.address, {"X-Forwarded-Proto $scheme": "X-Forwarded-Proto $http_x_forwarded_proto"})
    outer = haproxy(inner.address, authority=authority)
    with outer.connect(CLIENT) as client:
        for fields in ((), LIES):
            facts = ask(client, *fields)
            assert (facts["client"], facts["scheme"]) == ([CLIENT, 0], "https")
            assert facts["headers"]["x-forwarded-for"].endswith(f"{CLIENT}, 127.0.0.1")
    assert ask_websocket(outer, *LIES)["client"] == [CLIENT, 0]


def test_haproxy_behind_nginx_gives_the_client_of_nginx(start: Start, nginx: StartFront, haproxy: StartFront) -> None:
    server = start(BEHIND)
    outer = nginx(haproxy(server.address).address)
    with outer.connect(CLIENT) as client:
        assert ask(client, *LIES)["client"] == [CLIENT, 0]
    assert ask_websocket(outer, *LIES)["client"] == [CLIENT, 0]


def test_outer_proxy_that_is_not_in_the_list_is_the_client(
    start: Start, nginx: StartFront, haproxy: StartFront, tmp_path: Path
) -> None:
    """Only the server's neighbour is believed, by its Unix socket; the outer proxy's address is one like any other."""
    server = start(BEHIND, "--uds", str(tmp_path / "app.sock"), "--forwarded-allow-ips", "unix")
    outer = haproxy(nginx(server.address).address)
    with outer.connect(CLIENT) as client:
        assert ask(client)["client"] == ["127.0.0.1", 0]


# ---- Forwarded


def test_forwarded_of_nginx_gives_the_client(start: Start, nginx: StartFront, authority: Authority) -> None:
    server = start(BEHIND, "--forwarded-fields", "forwarded")
    front = nginx(server.address, forwarded_edits(fragments("nginx")[2]), authority=authority)
    with front.connect(CLIENT) as client:
        for fields in ((), LIES):
            facts = ask(client, *fields)
            assert (facts["client"], facts["scheme"]) == ([CLIENT, 0], "https")
            assert facts["headers"]["forwarded"] == f"for={CLIENT};proto=https"
            assert facts["headers"]["host"] == "shop.example:8080"


def test_forwarded_of_two_proxies_is_walked(start: Start, nginx: StartFront) -> None:
    """The inner one appends, as the README says; what the client sent ends at the outer one."""
    server = start(BEHIND, "--forwarded-fields", "forwarded")
    appended = 'proxy_set_header Forwarded "$http_forwarded, $forwarded_for;proto=$scheme";'
    inner = nginx(server.address, forwarded_edits(appended))
    outer = nginx(inner.address, forwarded_edits(fragments("nginx")[2]))
    with outer.connect(CLIENT) as client:
        facts = ask(client, *LIES)
        assert facts["headers"]["forwarded"] == f"for={CLIENT};proto=http, for=127.0.0.1;proto=http"
        assert facts["client"] == [CLIENT, 0]


@pytest.mark.parametrize("lie", ['for="', "for=203.0.113.9", 'for=203.0.113.9;x="', "a b"])
def test_client_that_spoils_an_appended_forwarded_is_never_somebody_else(
    start: Start, nginx: StartFront, lie: str
) -> None:
    """A proxy that clients connect to should replace the field. One that appends lets a client hide, not lie."""
    server = start(BEHIND, "--forwarded-fields", "forwarded")
    appended = 'proxy_set_header Forwarded "$http_forwarded, $forwarded_for;proto=$scheme";'
    with nginx(server.address, forwarded_edits(appended)).connect(CLIENT) as client:
        assert ask(client, f"Forwarded: {lie}")["client"][0] in (CLIENT, "127.0.0.1")


@pytest.mark.parametrize("field", ["x-forwarded-for,x-forwarded-proto", "forwarded"])
def test_ipv6_client_of_nginx_is_given(start: Start, nginx: StartFront, field: str) -> None:
    """nginx takes an address of the test's for the connection's; in Forwarded it stands in quotes and brackets."""
    server = start(BEHIND, "--forwarded-fields", field)
    edits = forwarded_edits(fragments("nginx")[2]) if field == "forwarded" else {}
    realip = {"listen 127.0.0.1": "set_real_ip_from 127.0.0.0/8; real_ip_header X-Test; listen 127.0.0.1"}
    with nginx(server.address, edits | realip).connect() as client:
        assert ask(client, "X-Test: 2001:db8::7")["client"] == ["2001:db8::7", 0]


# ---- host and prefix


def test_prefix_that_nginx_takes_off_is_the_root_path(start: Start, nginx: StartFront) -> None:
    server = start(
        BEHIND, "--forwarded-fields", "x-forwarded-for,x-forwarded-proto,x-forwarded-host,x-forwarded-prefix"
    )
    front = nginx(
        server.address,
        {
            "location / {": "location /shop/ {",
            "proxy_pass http://asgiws;": "proxy_pass http://asgiws/;",
            "proxy_set_header Host $http_host;": "proxy_set_header X-Forwarded-Host $http_host;\n"
            "        proxy_set_header X-Forwarded-Prefix /shop;",
        },
    )
    with front.connect(CLIENT) as client:
        client.send(b"GET /shop/cart HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-Prefix: /evil\r\n\r\n")
        facts = client.read_answer().json()
        assert isinstance(facts, dict)
        assert (facts["root_path"], facts["path"], facts["headers"]["host"]) == ("/shop", "/shop/cart", "shop.example")
