"""The files of deploy/ for nginx, HAProxy and Caddy, in front of two servers that come and go."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from asgiws.config.options import Config
from tests import PATIENCE_S
from tests.deploy.conftest import Site, StartSite
from tests.deploy.fronts import DEPLOY, FILES
from tests.programs import edited, find_program
from tests.raw import RawClient, close, frame, text
from tests.workers.crew import ask, open_socket, wait_gone
from tests.workers.load import Load

# What is edited so that a proxy gives up after a second of silence; Caddy has no such limit.
SHORT = {"nginx": {"proxy_read_timeout 60s": "proxy_read_timeout 1s"},
         "haproxy": {"timeout tunnel 60s": "timeout tunnel 1s"}, "caddy": {}}  # fmt: skip


def answer_ping(client: RawClient) -> None:
    first, payload = client.read_frame()
    assert first == 0x89
    client.send(frame(10, payload))


def leave(client: RawClient) -> None:
    """Close a WebSocket and wait until the server has let it go."""
    client.send(close())
    client.read_to_end()
    client.socket.close()


# ---- both serve


def test_websocket_goes_where_fewest_are_open(site: StartSite) -> None:
    """A server that was restarted is empty: it gets the next ones, and not each second one."""
    running = site()
    opened = [open_socket(running.front.port) for _ in range(6)]
    by_server: dict[int, list[RawClient]] = {}
    for client, pid in opened:
        by_server.setdefault(pid, []).append(client)
    assert sorted(map(len, by_server.values())) == [3, 3]
    first, second = by_server
    for client in by_server[first]:
        leave(client)
    again = [open_socket(running.front.port) for _ in range(3)]
    assert [pid for _, pid in again] == [first] * 3
    for client in [*by_server[second], *(client for client, _ in again)]:
        client.send(text("still here"))
        assert client.read_text() == "still here"
        client.socket.close()


@pytest.mark.slow
def test_pings_keep_a_quiet_websocket_beyond_the_proxys_timeout(site: StartSite, kind: str) -> None:
    """Six intervals of 0.3 s are nearly twice the second after which the proxy gives up."""
    running = site("--ping-interval", "0.3", edits=SHORT[kind])
    client, _ = open_socket(running.front.port)
    with client.socket:
        for _ in range(6):
            answer_ping(client)
        client.send(text("still here"))
        assert client.read_text() == "still here"


# ---- one goes and comes back


@pytest.mark.slow
def test_rolling_restart_refuses_nobody(site: StartSite) -> None:
    """One server after the other: every WebSocket is told 1012 and gets another at once, every request an answer."""
    running = site("--drain-delay", "3", "--drain-spread", "0.5")
    clients = [open_socket(running.front.port) for _ in range(10)]
    for name in ("app-1", "app-2"):
        old = running.servers[name].pid
        running.servers[name].terminate()
        kept = []
        for client, pid in clients:
            if pid == old:
                kept.append(reconnect(running, client, old))
            else:
                kept.append((client, pid))
        clients = kept
        wait_gone(old)
        running.start_server(name)
    for client, _ in clients:
        client.send(text("still here"))
        assert client.read_text() == "still here"
        client.socket.close()


@pytest.mark.slow
def test_second_server_may_be_restarted_as_soon_as_the_first_is_ready(site: StartSite, kind: str) -> None:
    """With the options of README.md, and clients that connect all the time: not one is turned away."""
    running = site(*([] if kind == "nginx" else ["--drain-delay", "3"]))
    load = Load(running.front.port)
    load.begin(*[load.websocket] * 4, load.request, load.request)
    try:
        for name in ("app-1", "app-2"):
            running.servers[name].terminate()
            assert running.servers[name].wait() == 0
            running.start_server(name)
    finally:
        load.end()
    assert load.failures == []
    assert running.servers["app-1"].pid in load.pids  # what served while the second one was away


def reconnect(running: Site, client: RawClient, old: int) -> tuple[RawClient, int]:
    """Ask for HTTP answers until the server says goodbye to a WebSocket, and open another one."""
    while not select.select([client.socket], [], [], 0)[0]:
        ask(running.front.port)
    assert client.read_close() == (1012, "service restart")
    leave(client)
    opened = open_socket(running.front.port)
    assert opened[1] != old
    return opened


def test_server_that_is_killed_is_missed_by_nobody_else(site: StartSite) -> None:
    running = site()
    client, pid = open_socket(running.front.port)
    os.kill(pid, signal.SIGKILL)
    assert client.read_to_end() == b""
    client.socket.close()
    others = {ask(running.front.port) for _ in range(10)}
    assert len(others) == 1
    assert pid not in others
    again, other = open_socket(running.front.port)
    assert other in others
    again.socket.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["caddy", "haproxy"])  # nginx asks no server whether it is ready
def test_server_that_drains_gets_nobody_new(site: StartSite) -> None:
    """/readyz says so, and the proxy asks each second. Who is there stays, until the drain goes on."""
    running = site("--drain-delay", "600")
    old = running.servers["app-1"]
    clients = [open_socket(running.front.port) for _ in range(2)]
    (stays,) = (client for client, pid in clients if pid == old.pid)
    old.terminate()
    others, until_s = 0, time.monotonic() + PATIENCE_S
    while others < 20:
        others = others + 1 if ask(running.front.port) != old.pid else 0
        assert time.monotonic() < until_s, "the server that drains is still asked"
    stays.send(text("still here"))
    assert stays.read_text() == "still here"
    for client, _ in clients:
        client.socket.close()


def test_application_is_told_who_its_client_is(site: StartSite) -> None:
    running = site(app="tests.runner.apps:facts")
    with RawClient(running.front.port, source="127.0.0.2") as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n")
        _, _, address, _ = json.loads(client.read_answer().body)
        assert address[0] == "127.0.0.2"


def test_request_is_answered_with_its_body(site: StartSite) -> None:
    """An upload is not held back by the proxy, and not sent twice."""
    running = site(app="tests.runner.apps:echo")
    with RawClient(running.front.port) as client:
        body = b"upload " * 100_000
        client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        answer = client.read_answer()
        assert (answer.status, answer.body) == (200, body)


# ---- the commands of proxies.md


@pytest.mark.parametrize("place", [1, 2, 3], ids=["nginx", "haproxy", "caddy"])
def test_check_of_the_readme_takes_the_edited_file(place: int, tmp_path: Path) -> None:
    """Edited as proxies.md says, for a server on the same machine: nobody but compose knows app-1 and app-2."""
    lines = (DEPLOY / "proxies.md").read_text().splitlines()
    kind, put, check = (
        next(line.split("|")[1:][place].strip(" `") for line in lines if line.startswith(start))
        for start in ("| | nginx |", "| put the edited file |", "| check it, as root |")
    )
    kind = kind.lower()
    configuration = (DEPLOY / FILES[kind]).read_text()
    configuration = re.sub(r"\n +server .*app-2:8000.*| app-2:8000", "", configuration)
    edits = {"app-1:8000": "127.0.0.1:8000"}
    if kind == "nginx":  # what takes root: the port, and where it writes
        edits |= {"listen 80;": "listen 127.0.0.1:8080;", "/var/log/nginx/": f"{tmp_path}/"}
    file = tmp_path / Path(put).name
    file.write_text(edited(configuration, edits))
    words = [str(file) if word == put else word for word in check.split()]
    assert str(file) in words
    words[0] = find_program(words[0])
    if kind == "nginx":
        words += ["-e", "stderr", "-g", f"pid {tmp_path}/nginx.pid;"]
    folders = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(tmp_path))
    done = subprocess.run(words, env=os.environ | folders, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- their times beside ours


@pytest.mark.parametrize(
    ("file", "pattern"),
    [("nginx.conf", r"proxy_read_timeout (\d+)s"), ("haproxy.cfg", r"timeout tunnel (\d+)s"),
     ("haproxy.cfg", r"timeout client (\d+)s"), ("haproxy.cfg", r"timeout server (\d+)s")],
)  # fmt: skip
def test_silence_that_a_proxy_allows_is_longer_than_pings_take(file: str, pattern: str) -> None:
    (seconds,) = re.findall(pattern, (DEPLOY / file).read_text())
    config = Config()
    assert int(seconds) > config.ping_interval + config.ping_timeout


@pytest.mark.parametrize(
    ("file", "pattern"), [("nginx.conf", r"\n\s+keepalive_timeout (\d+)s"), ("Caddyfile", r"\tkeepalive (\d+)s")]
)
def test_kept_connections_end_at_the_proxy_first(file: str, pattern: str) -> None:
    (seconds,) = re.findall(pattern, (DEPLOY / file).read_text())
    assert int(seconds) < Config().keep_alive_timeout
