"""Sockets that a server makes, finds, and is given: Unix sockets and inherited ones."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.raw import RawClient, text
from tests.server_process import APPS, RunCommand, Start, assert_one_line, has_ipv6, post

ECHO = f"{APPS}:echo"
FACTS = f"{APPS}:facts"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.sock"


# ---- --uds


@pytest.mark.promise
def test_unix_socket_serves_http_and_websocket(start: Start, path: Path) -> None:
    process = start(ECHO, "--uds", str(path))
    assert process.address == f"unix:{path}"
    with RawClient.unix(str(path)) as http, RawClient.unix(str(path)) as websocket:
        assert post(http, b"hello") == b"hello"
        websocket.open_websocket()
        websocket.send(text("hello"))
        assert websocket.read_text() == "hello"


def test_scope_on_a_unix_socket_names_the_path_and_no_client(start: Start, path: Path) -> None:
    """ASGI HTTP: `server` is the path and None, `client` is None."""
    start(FACTS, "--uds", str(path))
    with RawClient.unix(str(path)) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_answer().json() == ["", "/", None, [str(path), None]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_unix_socket_file_is_removed_at_exit(start: Start, path: Path, number: signal.Signals) -> None:
    process = start(ECHO, "--uds", str(path))
    assert path.is_socket()
    process.signal(number)
    assert process.wait() == 0
    assert not path.exists()


def test_unix_socket_that_a_killed_server_left_is_replaced(start: Start, path: Path) -> None:
    """A file whose socket nobody listens on is in nobody's use."""
    process = start(ECHO, "--uds", str(path))
    process.kill()
    assert path.is_socket()
    start(ECHO, "--uds", str(path))
    with RawClient.unix(str(path)) as client:
        assert post(client, b"hello") == b"hello"


def test_unix_socket_of_a_live_server_is_not_taken(start: Start, run_command: RunCommand, path: Path) -> None:
    """The second server is refused, and the first goes on at the same path."""
    start(ECHO, "--uds", str(path))
    ended = run_command(ECHO, "--uds", str(path), "--lifespan", "off")
    assert_one_line(ended, 1, f"--uds: {path}: Address already in use; choose another path")
    with RawClient.unix(str(path)) as client:
        assert post(client, b"hello") == b"hello"


def test_unix_socket_of_a_server_with_a_full_backlog_is_not_taken(run_command: RunCommand, path: Path) -> None:
    """A server that is too busy to accept is alive: the kernel says EAGAIN and not ECONNREFUSED."""
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        waiting = []
        try:
            while True:
                client = socket.socket(socket.AF_UNIX)
                waiting.append(client)
                client.setblocking(False)
                client.connect(str(path))
        except BlockingIOError:
            ended = run_command(ECHO, "--uds", str(path), "--lifespan", "off")
        finally:
            for client in waiting:
                client.close()
    assert_one_line(ended, 1, f"--uds: {path}: Address already in use")
    assert path.is_socket()


def test_file_that_is_no_socket_is_not_replaced(run_command: RunCommand, path: Path) -> None:
    path.write_text("precious")
    ended = run_command(ECHO, "--uds", str(path), "--lifespan", "off")
    assert_one_line(ended, 1, f"--uds: {path}: Address already in use; choose another path")
    assert path.read_text() == "precious"


def test_link_that_leads_nowhere_is_named_and_not_replaced(run_command: RunCommand, path: Path) -> None:
    """Nothing that one sees there has the address in use."""
    path.symlink_to("gone.sock")
    ended = run_command(ECHO, "--uds", str(path), "--lifespan", "off")
    assert_one_line(ended, 1, f"--uds: {path}: is a symbolic link to 'gone.sock', which is not there; remove it, or ")
    assert path.is_symlink()


@pytest.mark.parametrize(
    ("name", "why"),
    [("missing/app.sock", "No such file or directory"), ("x" * 120, "AF_UNIX path too long")],
    ids=["missing-folder", "too-long"],
)
def test_path_that_cannot_be_is_one_line_and_exit_code_1(
    run_command: RunCommand, tmp_path: Path, name: str, why: str
) -> None:
    """unix(7): a path has at most 107 bytes."""
    ended = run_command(ECHO, "--uds", str(tmp_path / name), "--lifespan", "off")
    assert_one_line(ended, 1, f"--uds: {tmp_path / name}: {why}; choose another path")


# ---- --fd


@pytest.mark.promise
def test_inherited_socket_serves(start: Start) -> None:
    """The parent listens, and hands its socket over: connections of before the start are served too."""
    with socket.create_server(("127.0.0.1", 0)) as listener, RawClient(listener.getsockname()[1]) as early:
        early.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        start(FACTS, "--fd", str(listener.fileno()), pass_fds=[listener.fileno()])
        assert early.read_answer().status == 200


def test_inherited_socket_of_a_stopped_server_stays_open(start: Start) -> None:
    """It is the parent's: connections wait in it for the next server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        arguments = [FACTS, "--fd", str(listener.fileno())]
        process = start(*arguments, pass_fds=[listener.fileno()])
        process.terminate()
        assert process.wait() == 0
        with RawClient(listener.getsockname()[1]) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            start(*arguments, pass_fds=[listener.fileno()])
            assert client.read_answer().status == 200


def test_file_of_an_inherited_unix_socket_stays(start: Start, path: Path) -> None:
    """Who made the socket removes its file."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        process = start(FACTS, "--fd", str(listener.fileno()), pass_fds=[listener.fileno()])
        assert process.address == f"unix:{path}"
        with RawClient.unix(str(path)) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.read_answer().status == 200
        process.terminate()
        assert process.wait() == 0
        assert path.is_socket()


def test_descriptor_that_is_not_open_is_one_line_and_exit_code_1(run_command: RunCommand) -> None:
    ended = run_command(ECHO, "--fd", "999", "--lifespan", "off")
    assert_one_line(ended, 1, "--fd: 999 is no socket (Bad file descriptor)")


def test_descriptor_that_is_no_socket_is_one_line_and_exit_code_1(run_command: RunCommand) -> None:
    """Descriptor 0 is /dev/null here."""
    ended = run_command(ECHO, "--fd", "0", "--lifespan", "off")
    assert_one_line(ended, 1, "--fd: 0 is no socket (Socket operation on non-socket)")


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["stream", "datagram"])
def test_socket_that_does_not_listen_is_one_line_and_exit_code_1(start: Start, kind: socket.SocketKind) -> None:
    with socket.socket(type=kind) as bound:
        bound.bind(("127.0.0.1", 0))
        fd = bound.fileno()
        process = start(ECHO, "--lifespan", "off", "--fd", str(fd), pass_fds=[fd], wait_ready=False)
        assert process.wait() == 1
    assert process.rest_of_stderr() == [
        f"asgiws: --fd: {fd} is a socket that does not listen, allowed: a listening TCP or Unix stream socket"
    ]


# ---- --host and --port


def test_empty_host_listens_on_all_addresses_with_one_port(start: Start) -> None:
    """RFC 4291 §2.5.2 and INADDR_ANY; port 0 is one free port, and not one for each."""
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    process = start(FACTS, "--host", "")
    port = process.port
    assert f"listening on http://0.0.0.0:{port}, http://[::]:{port} " in process.stderr[-1]
    for host in ("127.0.0.1", "::1"):
        with RawClient(port, host) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.read_answer().status == 200


def test_ipv6_address_is_shown_in_brackets(start: Start) -> None:
    """RFC 3986 §3.2.2, so that the line can be copied into a browser."""
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    process = start(FACTS, "--host", "::1")
    assert process.address.startswith("http://[::1]:")
    with RawClient(process.port, "::1") as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        facts = client.read_answer().json()
    assert isinstance(facts, list)
    assert (facts[2][0], facts[3]) == ("::1", ["::1", process.port])
