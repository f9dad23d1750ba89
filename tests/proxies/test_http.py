"""HTTP through real nginx and HAProxy: kept connections, bodies, streams, checks, and proxies set up wrongly."""

from __future__ import annotations

import pytest

from tests.proxies.conftest import BEHIND, StartSite
from tests.proxies.fronts import StartFront
from tests.raw import RawClient, handshake, text
from tests.server_process import Start

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
# The client in the scope is the proxy's connection then, and its port tells one from another.
UNTRUSTED = ("--no-proxy-headers",)


def port_of(client: RawClient) -> int:
    """Send a request; gives the port that the proxy's connection to the server has."""
    client.send(REQUEST)
    facts = client.read_answer().json()
    assert isinstance(facts, dict)
    return int(facts["client"][1])


def post(client: RawClient, size: int) -> tuple[int, bytes]:
    """Post a body of zeros to /length; gives status and body of the answer."""
    client.send(b"POST /length HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
    answer = client.read_answer()
    return answer.status, answer.body


# ---- connections between proxy and server


def test_connection_to_the_server_is_kept_for_the_next_request(start: Start, front: StartFront) -> None:
    with front(start(BEHIND, *UNTRUSTED).address).connect() as client:
        assert len({port_of(client) for _ in range(3)}) == 1


@pytest.mark.parametrize(("kind", "edits"), [
    ("nginx", {"    keepalive 32;\n    keepalive_timeout 4s;\n": ""}),
    ("haproxy", {"    mode http\n": "    mode http\n    option http-server-close\n"}),
])  # fmt: skip
def test_proxy_that_closes_after_each_request_is_served(start: Start, front: StartFront, edits: dict[str, str]) -> None:
    """HAProxy with `option http-server-close`, nginx without `keepalive`: a connection for each request."""
    running = front(start(BEHIND, *UNTRUSTED).address, edits)
    with running.connect() as client:
        assert len({port_of(client) for _ in range(3)}) == 3
    with running.connect() as client:
        client.open_websocket()
        client.send(text("hello"))
        assert client.read_text() == "hello"


def test_connection_that_the_server_closed_costs_no_request(start: Start, front: StartFront) -> None:
    """The proxy keeps connections for longer than the server here, and has to notice.

    A connection of the test's own, idle for less long than the proxy's, tells when the server has closed both.
    """
    server = start(BEHIND, *UNTRUSTED, "--keep-alive-timeout", "0.1")
    ports = set()
    with front(server.address).connect() as client:
        for _ in range(3):
            ports.add(port_of(client))
            with RawClient(server.port) as direct:
                port_of(direct)
                direct.read_to_end()
    assert len(ports) == 3


# ---- bodies and streams


def test_large_body_arrives_whole(site: StartSite) -> None:
    with site().front.connect() as client:
        assert post(client, 5 << 20) == (200, str(5 << 20).encode())
        assert post(client, 0) == (200, b"0")


def test_body_over_the_servers_limit_is_413_to_the_client(site: StartSite) -> None:
    running = site("--max-body-size", "64k")
    with running.front.connect() as client:
        assert post(client, 64 << 10)[0] == 200
        assert post(client, (64 << 10) + 1)[0] == 413
    running.server.wait_stderr(r"rejected .*body-too-large")


def test_chunked_body_arrives_whole(site: StartSite) -> None:
    with site().front.connect() as client:
        client.send(b"POST /length HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(10):
            client.send(b"400\r\n" + bytes(1024) + b"\r\n")
        client.send(b"0\r\n\r\n")
        assert client.read_answer().body == b"10240"


def test_stream_reaches_the_client_piece_by_piece(site: StartSite) -> None:
    """The second piece is sent after the first one has been read, so nobody holds the first one back."""
    front = site().front
    with front.connect() as client, front.connect() as other:
        client.send(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_until(b"one").startswith(b"HTTP/1.1 200")
        other.send(b"GET /go HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert other.read_answer().status == 200
        client.read_until(b"two")


def test_client_that_leaves_a_stream_ends_it(site: StartSite) -> None:
    running = site()
    with running.front.connect() as client:
        client.send(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.read_until(b"begun")
        client.reset()
    running.server.wait_stdout("^http ended$")


# ---- checks


def test_health_check_of_haproxy_disturbs_nobody(start: Start, haproxy: StartFront) -> None:
    server = start(BEHIND)
    front = haproxy(server.address, {"check inter 2s": "check inter 50ms"})
    with front.connect() as client:
        client.open_websocket()
        for _ in range(5):
            server.wait_stdout("^http /health$")
        client.send(text("hello"))
        assert client.read_text() == "hello"
    server.wait_stderr(r'"GET /health HTTP/1\.1" 200')
    server.terminate()
    assert server.wait() == 0
    server.rest_of_stderr()
    assert [line for line in server.stderr if "rejected" in line or "WARNING" in line or "ERROR" in line] == []


def test_check_that_only_connects_disturbs_nobody(start: Start, haproxy: StartFront) -> None:
    """HAProxy's check without `option httpchk`: connect, and reset."""
    server = start(BEHIND, "--log-level", "debug")
    front = haproxy(server.address, {
        "    option httpchk\n": "",
        "    http-check send meth GET uri /health ver HTTP/1.1 hdr Host localhost\n": "",
        "check inter 2s": "check inter 1ms",
    })  # fmt: skip
    with front.connect() as client:
        for _ in range(50):
            client.send(REQUEST)
            assert client.read_answer().status == 200
    server.terminate()
    assert server.wait() == 0
    server.rest_of_stderr()
    assert [line for line in server.stderr if "rejected" in line or "WARNING" in line or "ERROR" in line] == []


# ---- set up wrongly


def test_nginx_that_was_not_told_of_websocket_is_named_in_the_log(start: Start, nginx: StartFront) -> None:
    """By default it speaks HTTP/1.0 and drops Upgrade: an ordinary request, which the application answers."""
    server = start(BEHIND)
    front = nginx(server.address, {
        "        proxy_http_version 1.1;\n": "",
        "        proxy_set_header Upgrade $http_upgrade;\n": "",
        "        proxy_set_header Connection $connection_upgrade;\n": "",
    })  # fmt: skip
    with front.connect() as client:
        client.send(handshake())
        assert client.read_answer().status == 200
    server.wait_stderr(r"127\.0\.0\.2:0 +sent Sec-WebSocket-Key without Upgrade.*nginx needs proxy_http_version 1\.1")


@pytest.mark.parametrize(
    ("line", "rule", "said"),
    [
        ("proxy_http_version 1.1;", "handshake-http-version", b"a proxy in front may need to be configured for it"),
        ("proxy_set_header Connection $connection_upgrade;", "handshake-connection", b"a proxy in front may drop it"),
    ],
)
def test_nginx_without_one_of_the_lines_gets_400_with_the_reason(
    start: Start, nginx: StartFront, line: str, rule: str, said: bytes
) -> None:
    server = start(BEHIND)
    with nginx(server.address, {f"        {line}\n": ""}).connect() as client:
        client.send(handshake())
        answer = client.read_answer()
        assert answer.status == 400
        assert said in answer.body
    server.wait_stderr(rf"127\.0\.0\.2:0 +rejected .*{rule}")
