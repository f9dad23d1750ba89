"""Several addresses at once, the rights of Unix sockets, and what is left when a server cannot listen."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from asgiws.config.options import Config
from asgiws.server.sockets.listeners import CannotListen, Listeners
from tests.raw import RawClient, text
from tests.server_process import (
    APPS,
    Ended,
    RunCommand,
    ServerProcess,
    Start,
    assert_one_line,
    free_port,
    has_ipv6,
    module_command,
    post,
)

ECHO = f"{APPS}:echo"
FACTS = f"{APPS}:facts"
OFF = ("--lifespan", "off")
NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.sock"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def free() -> int:
    """A port that nobody listens on."""
    return free_port()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def serves(client: RawClient) -> bool:
    with client:
        return post(client, b"hello") == b"hello"


# ---- several


@pytest.mark.promise
def test_each_address_serves(start: Start, path: Path) -> None:
    """TCP, a Unix socket and an inherited socket at once, for HTTP and for WebSocket."""
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        fd = inherited.fileno()
        process = start(ECHO, "--bind", "127.0.0.1:0", "--bind", f"unix:{path}", "--bind", f"fd:{fd}", pass_fds=[fd])
        given = inherited.getsockname()[1]
    assert process.addresses == [process.addresses[0], f"unix:{path}", f"http://127.0.0.1:{given}"]
    made = int(process.addresses[0].removeprefix("http://127.0.0.1:"))
    assert made not in (0, given)
    for client in (RawClient(made), RawClient(given), RawClient.unix(str(path))):
        assert serves(client)
    for client in (RawClient(made), RawClient(given), RawClient.unix(str(path))):
        with client:
            client.open_websocket()
            client.send(text("hello"))
            assert client.read_text() == "hello"


def test_all_ways_to_say_where_add_up(start: Start, path: Path, tmp_path: Path) -> None:
    """--bind, --uds and --fd are served all three, and --port is not."""
    other = tmp_path / "other.sock"
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        fd = inherited.fileno()
        process = start(ECHO, "--bind", f"unix:{other}", "--uds", str(path), "--fd", str(fd), pass_fds=[fd])
        port = inherited.getsockname()[1]
    assert process.addresses == [f"unix:{other}", f"unix:{path}", f"http://127.0.0.1:{port}"]
    for client in (RawClient.unix(str(other)), RawClient.unix(str(path)), RawClient(port)):
        assert serves(client)


def test_address_without_a_host_listens_on_all_addresses_with_one_port(start: Start) -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    process = start(ECHO, "--bind", ":0")
    port = process.addresses[0].rpartition(":")[2]
    assert process.addresses == [f"http://0.0.0.0:{port}", f"http://[::]:{port}"]
    assert serves(RawClient(int(port)))
    assert serves(RawClient(int(port), "::1"))


def test_ipv6_address_in_brackets_serves_beside_ipv4(start: Start) -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    process = start(ECHO, "--bind", "[::1]:0", "--bind", "127.0.0.1:0")
    assert [address.rpartition(":")[0] for address in process.addresses] == ["http://[::1]", "http://127.0.0.1"]
    ports = [int(address.rpartition(":")[2]) for address in process.addresses]
    assert serves(RawClient(ports[0], "::1"))
    assert serves(RawClient(ports[1]))


def test_unspecified_ipv6_address_leaves_ipv4_to_others(start: Start, free: int) -> None:
    """`[::]:port` and `0.0.0.0:port` can be given together, on every system (IPV6_V6ONLY)."""
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    start(ECHO, "--bind", f"[::]:{free}", "--bind", f"0.0.0.0:{free}")
    assert serves(RawClient(free))
    assert serves(RawClient(free, "::1"))


def test_port_0_twice_gives_two_ports(start: Start) -> None:
    process = start(ECHO, "--bind", "127.0.0.1:0", "--bind", "127.0.0.1:0")
    ports = {int(address.rpartition(":")[2]) for address in process.addresses}
    assert len(ports) == 2
    for port in ports:
        assert serves(RawClient(port))


# ---- what cannot be


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bind", "127.0.0.1:{port}", "--bind", "127.0.0.1:{port}"], "--bind: 127.0.0.1:{port}"),
        (["--bind", "[::1]:{port}", "--bind", "[::1]:{port}"], "--bind: [::1]:{port}"),
        (["--bind", "unix:{path}", "--bind", "unix:{path}"], "--bind: unix:{path}"),
        (["--bind", "unix:{path}", "--uds", "{path}"], "--uds: unix:{path}"),
        (["--bind", "fd:0", "--bind", "fd:0"], "--bind: fd:0"),
        (["--bind", "fd:7", "--fd", "7"], "--fd: fd:7"),
    ],
    ids=["ipv4", "ipv6", "unix", "bind-and-uds", "fd", "bind-and-fd"],
)
def test_address_given_twice_is_one_line(
    run_command: RunCommand, path: Path, free: int, arguments: list[str], said: str
) -> None:
    ended = run_command(ECHO, *OFF, *(word.format(port=free, path=path) for word in arguments))
    assert_one_line(ended, 1, f"{said.format(port=free, path=path)} was given twice, allowed: once")
    assert not path.exists()


def test_one_address_under_two_names_is_one_line(run_command: RunCommand, free: int) -> None:
    """Only the kernel knows that it is the same."""
    ended = run_command(ECHO, *OFF, "--bind", f"127.0.0.1:{free}", "--bind", f"localhost:{free}")
    assert_one_line(ended, 1, f"cannot listen on localhost port {free}: Address already in use", "with --bind, or stop")


def test_taken_port_is_one_line_that_names_the_option(run_command: RunCommand, taken: int) -> None:
    ended = run_command(ECHO, *OFF, "--bind", f"127.0.0.1:{taken}")
    assert_one_line(ended, 1, f"cannot listen on 127.0.0.1 port {taken}: Address already in use", "with --bind, or")
    ended = run_command(ECHO, *OFF, "--port", str(taken))
    assert_one_line(ended, 1, f"cannot listen on 127.0.0.1 port {taken}", "with --host and --port, or")
    ended = run_command(ECHO, *OFF, "--bind", f":{taken}")
    assert_one_line(ended, 1, f"cannot listen on all addresses port {taken}: Address already in use")


@pytest.mark.parametrize(
    ("bind", "said"),
    [
        ("nowhere.invalid:80", "--bind: 'nowhere.invalid' is no address of this machine"),
        ("192.0.2.1:0", "cannot listen on 192.0.2.1 port 0: Cannot assign requested address"),
        ("[fe80::1%nothere]:0", "--bind: 'fe80::1%nothere' is no address of this machine"),
        ("a..b:80", "--bind: 'a..b' is no address of this machine"),
        ("fd:999999999", "--bind: 999999999 is no socket (Bad file descriptor)"),
        ("fd:0", "--bind: 0 is no socket (Socket operation on non-socket)"),
        ("unix:/", "--bind: /: Address already in use; choose another path"),
        ("unix:/nowhere/app.sock", "--bind: /nowhere/app.sock: No such file or directory"),
        ("unix:/dev/null/app.sock", "--bind: /dev/null/app.sock: Not a directory"),
        (f"unix:/{'x' * 200}", "AF_UNIX path too long"),
    ],
)
def test_address_that_cannot_be_bound_is_one_line_and_exit_code_1(
    run_command: RunCommand, bind: str, said: str
) -> None:
    assert_one_line(run_command(ECHO, *OFF, "--bind", bind), 1, said)


@pytest.mark.parametrize("fd", [2**31, 2**32, 2**40])
def test_descriptor_beyond_what_the_system_has_is_no_other_one(run_command: RunCommand, fd: int) -> None:
    """Of 2**32, an int of the C library keeps 0, which is open."""
    assert_one_line(run_command(ECHO, *OFF, "--fd", str(fd)), 1, f"--fd: {fd} is no socket (Bad file descriptor)")


@pytest.mark.parametrize("bind", ["8000", "localhost", "::1:8000", "unix:", "fd:x", "localhost:65536"])
def test_what_is_no_address_is_one_line_and_exit_code_2(run_command: RunCommand, bind: str) -> None:
    ended = run_command(ECHO, "--bind", bind)
    assert_one_line(ended, 2, f"--bind: {bind!r} was given, allowed: host:port, [::1]:port, :port, unix:/path or fd:3")


def test_bind_that_fails_leaves_no_file(run_command: RunCommand, tmp_path: Path, taken: int) -> None:
    """What was made before is taken back, and what was somebody else's is not."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other"))
        other.listen()
        for last in (f"127.0.0.1:{taken}", f"unix:{tmp_path}/other", "fd:999", "nowhere.invalid:1"):
            ended = run_command(
                ECHO, *OFF, "--bind", f"unix:{tmp_path}/a", "--bind", f"unix:{tmp_path}/b", "--bind", last
            )
            assert_one_line(ended, 1)
            assert os.listdir(tmp_path) == ["other"]


def test_bind_that_fails_leaves_no_socket(free: int, taken: int) -> None:
    with pytest.raises(CannotListen):
        Listeners.open(Config(bind=(f"127.0.0.1:{free}", f"127.0.0.1:{taken}")))
    with pytest.raises(ConnectionRefusedError):
        RawClient(free)


def test_inherited_socket_that_is_refused_stays_open() -> None:
    """It is its owner's."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(CannotListen):
            Listeners.open(Config(fd=bound.fileno()))
        bound.listen()


# ---- rights of Unix sockets


@pytest.mark.parametrize("umask", ["000", "022", "077", "777"])
@pytest.mark.parametrize(("given", "mode"), [("600", 0o600), ("660", 0o660), ("0666", 0o666), ("", None)])
def test_mode_is_what_was_given_whatever_the_umask(
    processes: list[ServerProcess], path: Path, umask: str, given: str, mode: int | None
) -> None:
    """Without the option it is what the umask leaves, as for every file."""
    options = ["--uds-mode", given] if given else []
    command = module_command([ECHO, "--bind", f"unix:{path}", *options])
    process = ServerProcess(["sh", "-c", f'umask {umask}; exec "$@"', "sh", *command])
    processes.append(process)
    process.wait_ready()
    assert mode_of(path) == (0o777 & ~int(umask, 8) if mode is None else mode)


@pytest.mark.parametrize("mode", ["8", "66", "688", "1777", "00660", "0o660", "rw-rw----", "-660", "u+rw", "６６０"])
def test_bad_mode_is_one_line(run_command: RunCommand, path: Path, mode: str) -> None:
    ended = run_command(ECHO, "--uds", str(path), f"--uds-mode={mode}")
    assert_one_line(ended, 2, "--uds-mode: ", "allowed: an octal file mode such as 660")
    assert not path.exists()


@pytest.mark.parametrize("form", ["{uid}:{gid}", "{user}:{group}", "{user}", ":{group}", "{uid}", ":{gid}"])
def test_owner_may_be_named_and_numbered(start: Start, path: Path, form: str) -> None:
    if os.getuid() != 0:
        pytest.skip("giving files away takes root")
    user = pwd.getpwuid(NOBODY)
    names = {"uid": NOBODY, "gid": user.pw_gid, "user": user.pw_name, "group": grp.getgrgid(user.pw_gid).gr_name}
    start(ECHO, "--uds", str(path), "--uds-owner", form.format(**names), "--uds-mode", "600")
    user_given, _, group_given = form.partition(":")
    seen = path.stat()
    assert (seen.st_uid, seen.st_gid) == (NOBODY if user_given else 0, user.pw_gid if group_given else 0)
    assert mode_of(path) == 0o600


@pytest.mark.parametrize(
    "owner", ["nobody-of-that-name", ":no-such-group", "root:no-such-group", "4294967295", "9" * 20]
)
def test_unknown_owner_is_one_line_and_leaves_no_file(run_command: RunCommand, path: Path, owner: str) -> None:
    """The last number there is stands for none (chown(2)), and would change nothing."""
    ended = run_command(ECHO, *OFF, "--uds", str(path), "--uds-owner", owner)
    assert_one_line(ended, 1, f"--uds-owner: {owner} is not known here, allowed: user:group, user or :group")
    assert not path.exists()


@pytest.mark.parametrize("owner", [":", "a:", "a:b:c", "a b", "a/b", "a;b"])
def test_bad_owner_is_one_line(run_command: RunCommand, path: Path, owner: str) -> None:
    ended = run_command(ECHO, "--uds", str(path), "--uds-owner", owner)
    assert_one_line(ended, 2, "--uds-owner: ", "allowed: user:group, user or :group")
    assert not path.exists()


AS_NOBODY = f"""
import os, sys
import asgiws.cli, tests.runner.apps
if os.getuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
sys.exit(asgiws.cli.main(sys.argv[1:]))
"""


def test_owner_that_may_not_be_given_is_one_line_and_leaves_no_file(processes: list[ServerProcess]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        path = Path(folder, "app.sock")
        arguments = [ECHO, *OFF, "--loop", "asyncio", "--bind", f"unix:{path}", "--uds-owner", "root"]
        process = ServerProcess([sys.executable, "-c", AS_NOBODY, *arguments])
        processes.append(process)
        ended = Ended.of(process)
        assert_one_line(ended, 1, "--uds-owner: root: Operation not permitted; only root may change the owner")
        assert os.listdir(folder) == []


# ---- files of Unix sockets


def test_files_of_all_unix_sockets_are_removed_at_exit(start: Start, tmp_path: Path) -> None:
    binds = ["--bind", f"unix:{tmp_path}/a", "--bind", f"unix:{tmp_path}/b", "--uds", f"{tmp_path}/c"]
    process = start(ECHO, *binds)
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]
    process.terminate()
    assert process.wait() == 0
    assert os.listdir(tmp_path) == []


def test_stale_file_is_replaced(start: Start, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    start(ECHO, "--bind", f"unix:{path}")
    assert serves(RawClient.unix(str(path)))


def test_path_in_use_is_one_line_that_names_the_option(run_command: RunCommand, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        for option, value in (("--bind", f"unix:{path}"), ("--uds", str(path))):
            ended = run_command(ECHO, *OFF, option, value)
            assert_one_line(ended, 1, f"{option}: {path}: Address already in use; choose another path")


def test_socket_that_somebody_else_made_meanwhile_stays(start: Start, path: Path) -> None:
    """As when the next server is started before this one has stopped."""
    process = start(ECHO, "--bind", f"unix:{path}")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        process.terminate()
        assert process.wait() == 0
        RawClient.unix(str(path)).socket.close()


def test_file_that_somebody_else_made_meanwhile_stays(start: Start, path: Path) -> None:
    process = start(ECHO, "--bind", f"unix:{path}")
    path.unlink()
    path.write_text("precious")
    process.terminate()
    assert process.wait() == 0
    assert path.read_text() == "precious"


def test_file_that_has_gone_does_not_matter(start: Start, path: Path) -> None:
    process = start(ECHO, "--bind", f"unix:{path}")
    path.unlink()
    process.terminate()
    assert process.wait() == 0
    assert not any("Traceback" in line for line in process.stderr)


def test_path_in_any_bytes_is_served(start: Start, tmp_path: Path) -> None:
    """A path is bytes that need not be UTF-8, and may hold a line end."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n")
    start(ECHO, "--bind", f"unix:{path}")
    assert serves(RawClient.unix(path))


@pytest.mark.skipif(sys.platform != "linux", reason="abstract Unix sockets are Linux's")
def test_inherited_abstract_socket_is_shown_and_is_text_in_the_scope(start: Start) -> None:
    """ASGI HTTP: `server` holds a str. unix(7): such a name begins with a NUL, and people write @."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0asgiws-test-{os.getpid()}")
        listener.listen()
        process = start(FACTS, "--fd", str(listener.fileno()), pass_fds=[listener.fileno()])
        assert process.addresses == [f"unix:@asgiws-test-{os.getpid()}"]
        with RawClient.unix(f"\0asgiws-test-{os.getpid()}") as client:
            client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.read_answer().json() == ["", "/", None, [f"\0asgiws-test-{os.getpid()}", None]]


# ---- the backlog


@pytest.mark.parametrize("backlog", [1, 3])
def test_backlog_is_how_many_connections_wait(path: Path, backlog: int) -> None:
    """Linux holds one more than it is told for Unix sockets, and says EAGAIN to the next."""
    listeners = Listeners.open(Config(uds=str(path), backlog=backlog))
    waiting: list[socket.socket] = []
    try:
        for _ in range(backlog + 1):
            client = socket.socket(socket.AF_UNIX)
            waiting.append(client)
            client.setblocking(False)
            client.connect(str(path))
        with socket.socket(socket.AF_UNIX) as one_more:
            one_more.setblocking(False)
            with pytest.raises(BlockingIOError):
                one_more.connect(str(path))
    finally:
        for client in waiting:
            client.close()
        listeners.close()


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO of a listening socket is Linux's")
def test_backlog_of_a_tcp_socket_is_what_was_given() -> None:
    """tcp(7): of a listening socket, tcpi_sacked is the backlog."""
    listeners = Listeners.open(Config(port=0, backlog=17))
    info = listeners.sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    listeners.close()
    assert struct.unpack_from("I", info, 28) == (17,)
