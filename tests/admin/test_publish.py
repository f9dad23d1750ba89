"""`asgiws publish`, and the path of the admin address that it uses: who may publish, and whom it reaches."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import PATIENCE_S
from tests.admin.helpers import BEARER, TOKEN, Admin, wait_until
from tests.raw import RawClient
from tests.server_process import ROOT, Ended, RunCommand, ServerProcess, Start, clean_environ

CHAT = "tests.topics.chat:app"
TCP = ("--admin", "127.0.0.1:0")
OCTETS = "Content-Type: application/octet-stream"


@pytest.fixture
def clients() -> Iterator[list[RawClient]]:
    """Closes what a test opens."""
    opened: list[RawClient] = []
    yield opened
    for client in opened:
        client.socket.close()


def address(admin: Admin) -> str:
    return f"unix:{admin.path}" if admin.path else f"127.0.0.1:{admin.port}"


def unix(folder: Path) -> tuple[str, str]:
    return "--admin", f"unix:{folder}/admin.sock"


def member(process: ServerProcess, clients: list[RawClient], room: str = "1") -> RawClient:
    """Open a socket, and wait until it has subscribed to `room:1`."""
    client = RawClient(process.port)
    clients.append(client)
    client.open_websocket(f"/rooms/{room}")
    assert client.read_text() == "subscribed"
    return client


def reach_each_worker(process: ServerProcess, admin: Admin, clients: list[RawClient]) -> None:
    """Open members until each worker has one."""
    while True:
        for _ in range(4):
            member(process, clients)
        wait_until(lambda: admin.status()["levels"]["connections"]["websocket"] == len(clients))
        if all(worker["connections"]["websocket"] for worker in admin.status()["workers"]):
            return


def publish_input(data: bytes, *words: str) -> Ended:
    """Run `asgiws publish` with something on its standard input."""
    ended = subprocess.run(
        [sys.executable, "-m", "asgiws", "publish", *words], input=data, capture_output=True, cwd=ROOT,
        env=clean_environ(), timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    return Ended(ended.returncode, ended.stdout.decode().splitlines(), ended.stderr.decode().splitlines())


def post(admin: Admin, topic: str, body: bytes, *fields: str) -> tuple[int, str]:
    with admin.connect() as client:
        lines = [f"POST /topics/{topic} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *fields, "", ""]
        client.send("\r\n".join(lines).encode() + body)
        answer = client.read_answer()
        return answer.status, answer.body.decode()


# ---- whom it reaches


@pytest.mark.promise
@pytest.mark.parametrize("workers", ["0", "2"])
def test_message_reaches_the_subscribers_of_all_workers(
    start: Start, run_command: RunCommand, tmp_path: Path, clients: list[RawClient], workers: str
) -> None:
    process = start(CHAT, *unix(tmp_path), "--workers", workers, "--topic-prefix", "blue:")
    admin = Admin(process)
    reach_each_worker(process, admin, clients)
    ended = run_command("publish", address(admin), "room:1", "hällo")
    assert (ended.code, ended.stdout, ended.stderr) == (0, ["published 6 bytes to room:1"], [])
    assert {client.read_text() for client in clients} == {"hällo"}
    name = "asgiws_topic_published_total", ()
    wait_until(lambda: admin.samples()[name] == 1)


def test_message_comes_from_standard_input(start: Start, tmp_path: Path, clients: list[RawClient]) -> None:
    """As it is, with its line ends."""
    process = start(CHAT, *unix(tmp_path))
    client, where = member(process, clients), address(Admin(process))
    for words in ((where, "room:1", "-"), (where, "room:1"), ("--admin", where, "room:1")):
        ended = publish_input(b"one\ntwo\n", *words)
        assert (ended.code, ended.stdout, ended.stderr) == (0, ["published 8 bytes to room:1"], [])
        assert client.read_text() == "one\ntwo\n"


def test_bytes_arrive_as_a_binary_message(start: Start, tmp_path: Path, clients: list[RawClient]) -> None:
    process = start(CHAT, *unix(tmp_path))
    client = member(process, clients)
    ended = publish_input(b"\x00\xff", "--bytes", address(Admin(process)), "room:1")
    assert (ended.code, ended.stderr) == (0, [])
    assert client.read_frame() == (0x82, b"\x00\xff")


def test_name_may_have_what_an_url_gives_a_meaning(
    start: Start, run_command: RunCommand, tmp_path: Path, clients: list[RawClient]
) -> None:
    process = start(CHAT, *unix(tmp_path))
    client = member(process, clients, "a%3Fb%23%2520&..")
    ended = run_command("publish", address(Admin(process)), "room:a?b#%20&..", "hello")
    assert (ended.code, ended.stderr) == (0, [])
    assert client.read_text() == "hello"


def test_address_and_token_come_from_the_environment(
    start: Start, run_command: RunCommand, clients: list[RawClient]
) -> None:
    process = start(CHAT, *TCP, "--admin-token", TOKEN)
    client = member(process, clients)
    environ = {"ASGIWS_ADMIN": address(Admin(process)), "ASGIWS_ADMIN_TOKEN": TOKEN}
    assert run_command("publish", "room:1", "hello", environ=environ).code == 0
    assert client.read_text() == "hello"


def test_topic_without_subscribers_takes_a_message(start: Start, run_command: RunCommand, tmp_path: Path) -> None:
    process = start(CHAT, *unix(tmp_path))
    ended = run_command("publish", address(Admin(process)), "nobody", "x")
    assert (ended.code, ended.stdout) == (0, ["published 1 byte to nobody"])


# ---- what is refused


@pytest.mark.parametrize("workers", ["0", "1"])
def test_message_has_a_limit(start: Start, tmp_path: Path, clients: list[RawClient], workers: str) -> None:
    process = start(CHAT, *unix(tmp_path), "--workers", workers, "--max-publish-size", "70000")
    client, where = member(process, clients), address(Admin(process))
    for size in (70_001, 1_000_000):
        ended = publish_input(b"x" * size, where, "room:1")
        said = f"asgiws: message of {size} bytes, {where} allows fewer (--max-publish-size)"
        assert (ended.code, ended.stderr) == (1, [said])
    assert publish_input(b"x" * 70_000, where, "room:1").code == 0
    assert client.read_text() == "x" * 70_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("t" * 201, "x"), "argument TOPIC: topic name of 201 characters, allowed: 1 to 200"),
        (("", "x"), "argument TOPIC: topic name of 0 characters, allowed: 1 to 200"),
        (("a b", "x"), "argument TOPIC: topic name 'a b', allowed: visible ASCII characters, no spaces"),
        (("a\x1b[2J", "x"), "argument TOPIC: topic name 'a\\x1b[2J', allowed: visible ASCII characters, no spaces"),
        ((), "1 words were given, allowed: [ADDRESS] TOPIC [TEXT|-]; quote the text"),
        (("a", "b", "c"), "4 words were given, allowed: [ADDRESS] TOPIC [TEXT|-]; quote the text"),
    ],
)
def test_words_that_are_no_message_are_one_line(run_command: RunCommand, words: tuple[str, ...], said: str) -> None:
    ended = run_command("publish", "unix:/nowhere", *words)
    assert ended.code == 2
    (line,) = ended.stderr
    assert line == f"asgiws publish: {said} (asgiws publish --help lists the options)"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "0 words were given, allowed: [ADDRESS] TOPIC [TEXT|-]; quote the text"),
        (("prices", "1.09"), "argument ADDRESS: 'prices' was given, allowed: HOST:PORT, [::1]:PORT or unix:/path"),
    ],
)
def test_words_without_an_address_are_one_line(run_command: RunCommand, words: tuple[str, ...], said: str) -> None:
    ended = run_command("publish", *words)
    assert (ended.code, ended.stderr) == (2, [f"asgiws publish: {said} (asgiws publish --help lists the options)"])


def test_input_that_no_server_takes_is_not_kept() -> None:
    with open("/dev/zero", "rb") as zeros:
        ended = subprocess.run(
            [sys.executable, "-m", "asgiws", "publish", "unix:/nowhere", "prices"], stdin=zeros, capture_output=True,
            cwd=ROOT, env=clean_environ(), timeout=PATIENCE_S, check=False,
        )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (1, b"asgiws: cannot read standard input: more than 64 MiB\n")


def test_text_that_is_not_utf_8_is_refused(start: Start, tmp_path: Path) -> None:
    ended = publish_input(b"\xff", address(Admin(start(CHAT, *unix(tmp_path)))), "room:1")
    said = "asgiws: text that is not UTF-8 was given, allowed: UTF-8; bytes go with --bytes"
    assert (ended.code, ended.stderr) == (1, [said])


def test_server_refuses_a_name_too(start: Start, tmp_path: Path) -> None:
    """Of other clients than ours."""
    admin = Admin(start(CHAT, *unix(tmp_path)))
    assert post(admin, "a%0Ab", b"x") == (
        400, "topic name 'a\\nb', allowed: visible ASCII characters, no spaces\n",
    )  # fmt: skip
    assert post(admin, "", b"x") == (400, "topic name of 0 characters, allowed: 1 to 200\n")


@pytest.mark.promise
def test_publishing_needs_the_token(start: Start, run_command: RunCommand, clients: list[RawClient]) -> None:
    """As closing does; a stranger's page does not have it."""
    process = start(CHAT, *TCP, "--admin-token", TOKEN)
    admin, client = Admin(process), member(process, clients)
    ended = run_command("publish", address(admin), "room:1", "x")
    assert (ended.code, ended.stderr) == (1, ["asgiws: publishing needs the token"])
    ended = run_command("publish", "--admin-token", "0123456789abcdef-another", address(admin), "room:1", "x")
    assert (ended.code, ended.stderr) == (1, ["asgiws: wrong token"])
    assert post(admin, "room:1", b"yes", BEARER)[0] == 200
    assert client.read_text() == "yes"


def test_publishing_over_tcp_without_a_token_is_refused(start: Start) -> None:
    assert post(Admin(start(CHAT, *TCP)), "room:1", b"x") == (
        403, "publishing is not allowed from there: set --admin-token, or use --admin unix:/path\n",
    )  # fmt: skip


def test_page_of_a_stranger_publishes_nothing(start: Start, tmp_path: Path, clients: list[RawClient]) -> None:
    process = start(CHAT, *unix(tmp_path))
    admin, client = Admin(process), member(process, clients)
    assert post(admin, "room:1", b"no", "Origin: https://stranger.example")[0] == 403
    assert post(admin, "room:1", b"\x01", OCTETS)[0] == 200
    assert client.read_frame() == (0x82, b"\x01")


def test_log_has_the_name_cut_and_nothing_of_the_message(start: Start, tmp_path: Path) -> None:
    process = start(CHAT, *unix(tmp_path), "--log-level", "debug")
    assert post(Admin(process), "t" * 200, b"secret")[0] == 200
    line = process.wait_stderr("by order of the operator")
    assert "published 6 bytes to " + "t" * 40 in line
    assert "t" * 100 not in line
