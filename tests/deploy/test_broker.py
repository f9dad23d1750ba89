"""Redis with the files of deploy/redis: the servers of the example have one room, and its account may do no more."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme
import yaml
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from asgiws.topics.history import START, Keep
from asgiws.topics.listener import Listener
from asgiws.topics.message import Message
from tests import PATIENCE_S
from tests.deploy.conftest import Site, StartSite
from tests.deploy.fronts import ADDRESSES, DEPLOY
from tests.deploy.test_example import hear
from tests.programs import edited, find_program, reserved_port
from tests.raw import RawClient
from tests.server_process import ServerProcess, Start
from tests.topics.brokers.machines import listen, read, run, until, workers_of

APP = ("--app-dir", str(DEPLOY / "example"), "--workers", "2")
FORBIDDEN = (
    "GET other", "SET asgiws:x 1", "KEYS *", "FLUSHALL", "SUBSCRIBE other", "PSUBSCRIBE *", "PUBLISH other hello",
    "CONFIG GET requirepass", "ACL LIST", "CLIENT KILL TYPE pubsub", "MONITOR", "SHUTDOWN",
)  # fmt: skip
WATCHER = "user watcher on nopass resetkeys resetchannels -@all +acl|log +info\n"


class Redis:
    """A Redis with the files of deploy/, and an account more that sees which commands were refused."""

    def __init__(self, folder: Path, port: int, processes: list[ServerProcess], *, tls: bool = False) -> None:
        self._processes = processes
        shutil.copytree(DEPLOY, folder / "deploy", ignore=shutil.ignore_patterns(".env", "secrets"))
        subprocess.run(["sh", folder / "deploy/make-secrets.sh"], check=True)
        secrets = folder / "deploy/secrets"
        self.password_file = secrets / "redis-password"
        self.password = self.password_file.read_text().strip()
        with (secrets / "users.acl").open("a") as accounts:
            accounts.write(WATCHER)
        text = edited((folder / "deploy/redis/redis.conf").read_text(), {"/run/secrets/": f"{secrets}/"})
        if tls:
            more = (folder / "deploy/redis/tls.conf").read_text()
            text += edited(more, {"/etc/redis/tls/": f"{folder}/", "tls-port 6379": f"tls-port {port}"})
        else:
            text += f"port {port}\n"
        self._file = folder / "redis.conf"
        self._file.write_text(f"{text}bind 127.0.0.1\ndir {folder}\n")
        self.start()

    def start(self) -> None:
        """Start it, the first time or again."""
        self.process = ServerProcess([find_program("redis-server"), str(self._file)])
        self._processes.append(self.process)
        self.process.wait_stdout("Ready to accept connections")


@pytest.fixture
def port() -> Iterator[int]:
    """A port for Redis."""
    with reserved_port() as port:
        yield port


@pytest.fixture
def kind() -> str:
    """The proxy that compose.yaml has."""
    return "nginx"


def ask(port: int, account: str, *commands: str) -> list[str]:
    """Log in and send commands; return the first line of each reply."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client, client.makefile("rb") as replies:
        lines = []
        for command in (f"AUTH {account}", *commands):
            client.sendall(command.encode() + b"\r\n")
            lines.append(replies.readline().decode().strip())
        assert lines[0] == "+OK"
        return lines[1:]


def open_viewers(site: Site, sockets: ExitStack) -> dict[object, ClientConnection]:
    """Return a viewer in each of the four workers."""
    viewers: dict[object, ClientConnection] = {}
    while len(viewers) < 2 * len(ADDRESSES):
        viewer = sockets.enter_context(connect(f"ws://127.0.0.1:{site.front.port}/room", proxy=None))
        viewers.setdefault(hear(viewer, "welcome")["process"], viewer)
    return viewers


def assert_one_room(viewers: dict[object, ClientConnection]) -> None:
    for process, viewer in viewers.items():
        viewer.send(f"hello from {process}")
        for other in viewers.values():
            said = hear(other, "said")
            assert (said["text"], said["process"]) == (f"hello from {process}", process)


def code_of_end(viewer: ClientConnection) -> int | None:
    """Return the code of the Close that comes after all else."""
    while True:
        try:
            viewer.recv(PATIENCE_S)
        except ConnectionClosed as closed:
            return None if closed.rcvd is None else closed.rcvd.code


def wait_until(site: Site, status: int) -> None:
    """Wait until /readyz of both servers has a status."""
    until_s = time.monotonic() + PATIENCE_S
    for name in ADDRESSES:
        while readiness(site, name) != status:
            assert time.monotonic() < until_s, f"{name} does not say {status}"


def readiness(site: Site, name: str) -> int:
    with RawClient(site.admin_port, ADDRESSES[name]) as client:
        client.send(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return client.read_answer().status


@pytest.mark.slow
def test_two_servers_have_one_room_also_after_redis_was_killed(
    site: StartSite, port: int, tmp_path: Path, processes: list[ServerProcess]
) -> None:
    """With an account that may do what they do, as none of their commands is refused, and nothing else."""
    redis = Redis(tmp_path, port, processes)
    options = ("--broker", f"redis://chat@127.0.0.1:{port}", "--broker-password-file", str(redis.password_file))
    running = site(*APP, *options, app="app:app")
    with ExitStack() as sockets:
        wait_until(running, 200)
        viewers = open_viewers(running, sockets)
        assert_one_room(viewers)
        assert ask(port, "watcher any", "ACL LOG") == ["*0"]
        for command in FORBIDDEN:
            (reply,) = ask(port, f"chat {redis.password}", command)
            assert reply.startswith("-NOPERM"), (command, reply)

        redis.process.signal(signal.SIGKILL)
        wait_until(running, 503)
        redis.start()
        wait_until(running, 200)
        for viewer in viewers.values():
            assert code_of_end(viewer) == 1012
        assert_one_room(open_viewers(running, sockets))
        assert ask(port, "watcher any", "ACL LOG") == ["*0"]


def test_account_may_do_exactly_what_is_used(port: int, tmp_path: Path, processes: list[ServerProcess]) -> None:
    """Topics with history and without, counting, leaving: nothing of it is refused, and nothing else is allowed."""
    redis = Redis(tmp_path, port, processes)
    url = f"redis://chat@127.0.0.1:{port}"

    def used() -> set[str]:
        return set(re.findall(r"^cmdstat_([\w|]+):calls=[1-9]", statistics(port), re.MULTILINE))

    async def test() -> None:
        async with workers_of(url, 2, broker_password_file=str(redis.password_file)) as workers:
            first, second = workers.hubs
            listener, keep = await listen(first, "a"), Keep(10_000, 1)
            await second.publish(Message("a", "hello"))
            assert await read(listener, 1) == ["hello"]
            assert await second.count("a") == 0
            while "xdel" not in used():  # once the first has expired
                await second.publish(Message("a", "kept", keep=keep))
            assert await second.resume("a", Listener(100), START)
            first.unsubscribe("a", listener)
            first.second_passed()
            await until(lambda: "unsubscribe" in used())

    run(test)
    allowed = re.findall(r" \+(\w+)", (DEPLOY / "redis/users.acl").read_text())
    assert set(allowed) <= used()
    assert ask(port, "watcher any", "ACL LOG") == ["*0"]


def statistics(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client, client.makefile("rb") as replies:
        client.sendall(b"AUTH watcher any\r\nINFO commandstats\r\n")
        assert replies.readline() == b"+OK\r\n"
        return replies.read(int(replies.readline()[1:])).decode()


@pytest.mark.slow
def test_redis_with_tls_answers_nothing_else(
    start: Start, port: int, tmp_path: Path, processes: list[ServerProcess]
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    redis = Redis(tmp_path, port, processes, tls=True)
    address = f"rediss://chat@localhost:{port}?ssl_ca_certs={tmp_path}/ca.pem"
    server = start("app:app", *APP, "--broker", address, "--broker-password-file", str(redis.password_file))
    with connect(f"ws://127.0.0.1:{server.port}/room", proxy=None) as viewer:
        hear(viewer, "welcome")
        viewer.send("hello")
        assert hear(viewer, "said")["text"] == "hello"
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
        client.sendall(b"PING\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"PONG" not in client.recv(100)


def test_probe_of_the_container_says_whether_redis_answers(
    port: int, tmp_path: Path, processes: list[ServerProcess]
) -> None:
    """Without an account, and without one that everybody may use."""
    redis = Redis(tmp_path, port, processes)
    probe = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["redis"]["healthcheck"]["test"][1:]
    command = [find_program(probe[0], "redis-tools"), "-p", str(port), *probe[1:]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "NOAUTH Authentication required.")
    redis.process.signal(signal.SIGKILL)
    assert redis.process.wait() < 0
    assert subprocess.run(command, capture_output=True).returncode != 0
