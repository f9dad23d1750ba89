"""The PROXY protocol as HAProxy speaks it, in both versions, before HTTP and before TLS."""

from __future__ import annotations

import json

import pytest

from tests.proxies.conftest import BEHIND
from tests.proxies.fronts import Authority, StartFront
from tests.raw import RawClient, text
from tests.server_process import Start

VERSIONS = ["send-proxy", "send-proxy-v2"]
# A balancer that forwards TCP and knows nothing of HTTP: the README's fragment without what belongs to HTTP.
AS_TCP = {"mode http": "mode tcp"} | dict.fromkeys(
    [
        "    option forwardfor\n",
        "    http-request set-header X-Forwarded-Proto http\n",
        "    http-request set-header X-Forwarded-Proto https if { ssl_fc }\n",
        "    retry-on conn-failure empty-response\n",
        "    http-request disable-l7-retry unless METH_GET\n",
        "    option httpchk\n",
        "    http-check send meth GET uri /health ver HTTP/1.1 hdr Host localhost\n",
    ],
    "",
)


def with_proxy_header(version: str) -> dict[str, str]:
    """The edits of a balancer that sends the header."""
    return AS_TCP | {"check inter 2s": f"check inter 2s {version}"}


def facts_over(client: RawClient) -> dict[str, object]:
    """What the application was told of a WebSocket's client."""
    client.open_websocket("/?facts=1")
    facts = json.loads(client.read_text())
    assert isinstance(facts, dict)
    client.send(text("hello"))
    assert client.read_text() == "hello"
    return facts


@pytest.mark.promise
@pytest.mark.parametrize("version", VERSIONS)
def test_client_address_comes_from_the_header(start: Start, haproxy: StartFront, version: str) -> None:
    """The balancer's own checks, which send the header too or nothing at all, disturb nobody."""
    process = start(BEHIND, "--proxy-protocol")
    with haproxy(process.address, with_proxy_header(version)).connect("127.0.0.2") as client:
        facts = facts_over(client)
    assert facts["client"][0] == "127.0.0.2"  # type: ignore[index]  # JSON
    assert facts["scheme"] == "ws"
    process.rest_of_stderr()
    assert [line for line in process.stderr if "rejected" in line] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_header_comes_before_the_tls_handshake(
    start: Start, haproxy: StartFront, authority: Authority, version: str
) -> None:
    """TLS ends at the server, and the client is known all the same."""
    certificate = ["--ssl-certfile", str(authority.pem)]
    process = start(BEHIND, "--proxy-protocol", *certificate)
    front = haproxy(f"127.0.0.1:{process.port}", with_proxy_header(version))
    front.authority = authority  # whose certificate the client is shown
    with front.connect("127.0.0.2") as client:
        facts = facts_over(client)
    assert facts["client"][0] == "127.0.0.2"  # type: ignore[index]  # JSON
    assert facts["scheme"] == "wss"


def test_balancer_that_is_not_in_the_list_is_turned_away(start: Start, haproxy: StartFront) -> None:
    process = start(BEHIND, "--proxy-protocol", "--proxy-protocol-allow-ips", "192.0.2.0/24")
    with haproxy(process.address, with_proxy_header("send-proxy")).connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_to_end() == b""
    process.wait_stderr("proxy-not-allowed")


def test_balancer_that_sends_no_header_is_turned_away(start: Start, haproxy: StartFront) -> None:
    """Else any client could pass for the balancer."""
    process = start(BEHIND, "--proxy-protocol")
    with haproxy(process.address, AS_TCP).connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_to_end() == b""
    process.wait_stderr("bad-proxy-header")
