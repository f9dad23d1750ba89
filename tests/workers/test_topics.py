"""Topics with workers: what is published in one reaches the sockets of all, whatever happens to the workers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from tests import PATIENCE_S
from tests.admin.helpers import Admin, wait_until
from tests.raw import RawClient, close, text
from tests.server_process import ServerProcess, Start, assert_no_traceback
from tests.workers.crew import next_worker, restart, wait_gone, workers_of_log

APP = "tests.workers.topic_app:app"
NO_PINGS = ("--ping-interval", "0")


class Member(RawClient):
    """A socket that subscribes to the topic of its path."""

    def __init__(self, port: int, path: str = "/room") -> None:
        super().__init__(port)
        self.open_websocket(path)
        self.pid = int(self.read_text())
        while self.read_text() != "subscribed":  # messages may come before the application says so
            pass


@pytest.fixture
def opened() -> Iterator[list[RawClient]]:
    """Clients that are closed with the test."""
    clients: list[RawClient] = []
    yield clients
    for client in clients:
        client.socket.close()


def members_of(process: ServerProcess, workers: int, opened: list[RawClient], path: str = "/room") -> dict[int, Member]:
    """Open sockets until each worker has one; return one of each."""
    found: dict[int, Member] = {}
    while len(found) < workers:
        member = Member(process.port, path)
        opened.append(member)
        found.setdefault(member.pid, member)
    return found


def publish(process: ServerProcess, message: str, path: str = "/room") -> int:
    """Publish from an HTTP route; return the worker that answered."""
    with RawClient(process.port) as client:
        body = message.encode()
        client.send(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body)) + body)
        answer = client.read_answer()
        assert answer.status == 200
        return int(answer.body)


def test_sockets_of_all_workers_get_what_any_of_them_publishes(start: Start, opened: list[RawClient]) -> None:
    process = start(APP, *NO_PINGS, "--workers", "3")
    members = members_of(process, 3, opened)
    extra = [client for client in opened if client not in members.values()]
    others = members_of(process, 2, opened, "/other")
    for number, member in enumerate(members.values()):
        member.send(text(f"message {number}"))
        for client in (*members.values(), *extra):
            assert client.read_text() == f"message {number}"
    publish(process, "from a route")
    for client in (*members.values(), *extra):
        assert client.read_text() == "from a route"
    publish(process, "apart", "/other")
    for client in others.values():
        assert client.read_text() == "apart"
    process.terminate()
    for client in members.values():
        assert client.read_close() == (1012, "service restart")
        client.send(close(1012))
    assert process.wait() == 0
    assert_no_traceback(process)


def test_every_subscriber_sees_the_same_order(start: Start, opened: list[RawClient]) -> None:
    process = start(APP, *NO_PINGS, "--workers", "2")
    members = list(members_of(process, 2, opened).values())
    for member in members:
        member.send(text("stream:300:10"))
    seen = [[member.read_text() for _ in range(600)] for member in members]
    assert seen[0] == seen[1]
    numbers = [int(message.partition(":")[0]) for message in seen[0]]
    assert sorted(numbers) == sorted([*range(300), *range(300)])
    first = iter(numbers)
    assert all(number in first for number in range(300)), "each publisher's own order is kept"


def test_rolling_restart_loses_nothing(start: Start, opened: list[RawClient]) -> None:
    """Sockets of workers that drain get every message until their Close."""
    process = start(APP, *NO_PINGS, "--workers", "2", "--drain-spread", "0.5")
    members = list(members_of(process, 2, opened).values())
    stop = threading.Event()
    published: list[int] = []

    def publish_on() -> None:
        while not stop.is_set():
            publish(process, str(len(published)))
            published.append(len(published))

    publisher = threading.Thread(target=publish_on)
    publisher.start()
    try:
        restart(process, 2)
        for member in members:
            expected = None
            while (frame := member.read_frame())[0] != 0x88:
                number = int(frame[1])
                assert expected is None or number == expected
                expected = number + 1
            assert frame[1][:2] == (1012).to_bytes(2, "big")
        after = members_of(process, 2, opened)
        first = {pid: int(member.read_text()) for pid, member in after.items()}
        assert {int(member.read_text()) - first[pid] for pid, member in after.items()} == {1}
    finally:
        stop.set()
        publisher.join(PATIENCE_S)
    assert len(published) > 3
    assert_no_traceback(process)


def test_a_worker_more_and_a_worker_less(start: Start, opened: list[RawClient]) -> None:
    process = start(APP, *NO_PINGS, "--workers", "1")
    (first,) = members_of(process, 1, opened).values()
    process.signal(signal.SIGTTIN)
    added = next_worker(process, 2)
    members = members_of(process, 2, opened)
    assert added in members
    members[added].send(text("from the new one"))
    assert first.read_text() == "from the new one"
    process.signal(signal.SIGTTOU)
    while members[added].read_frame()[0] != 0x88:
        pass
    wait_gone(added)
    first.send(text("alone again"))
    assert first.read_text() == "alone again"


def test_a_killed_worker_takes_only_its_own_sockets_with_it(start: Start, opened: list[RawClient]) -> None:
    process = start(APP, *NO_PINGS, "--workers", "2")
    members = members_of(process, 2, opened)
    (dies, dying), (_, stays) = sorted(members.items())
    dying.send(text("stream:100000:1000"))
    assert stays.read_text().startswith("0:")
    os.kill(dies, signal.SIGKILL)
    next_worker(process, 1 if workers_of_log(process.stderr)[0] == dies else 2)
    stays.send(text("last"))
    before = 0
    while (message := stays.read_text()) != "last":
        number, _, payload = message.partition(":")
        assert int(number) == before + 1, "a part of a publish was delivered, or a message is missing"
        assert payload == "x" * 1000
        before += 1


def test_a_stopped_worker_learns_that_it_has_missed_something(start: Start, opened: list[RawClient]) -> None:
    """SIGSTOP: nobody else waits, what waits for it is bounded, and its subscribers come back."""
    process = start(
        APP, *NO_PINGS, "--workers", "2", "--worker-timeout", "0", "--topic-queue", "1MiB", "--admin", "127.0.0.1:0"
    )
    members = members_of(process, 2, opened)
    quiet = members_of(process, 2, opened, "/quiet")
    (stopped, missing), (_, publisher) = members.items()
    os.kill(stopped, signal.SIGSTOP)
    try:
        publisher.send(text("stream:300:20000"))
        for number in range(300):
            assert publisher.read_text().startswith(f"{number}:")
        assert memory_bytes(process.pid) < 120 * 1024 * 1024
    finally:
        os.kill(stopped, signal.SIGCONT)
    got = 0
    while (frame := missing.read_frame())[0] == 0x81:
        assert frame[1].startswith(b"%d:" % got)
        got += 1
    assert 0 < got < 300
    assert frame[0] == 0x88
    assert frame[1] == (1012).to_bytes(2, "big") + b"missed messages of a topic"
    wait_until(lambda: Admin(process).samples()["asgiws_topic_gaps_total", ()] == 1)
    publish(process, "still here", "/quiet")
    for client in quiet.values():
        assert client.read_text() == "still here"


def test_nothing_is_kept_for_a_dead_worker_whose_child_lives_on(start: Start, opened: list[RawClient]) -> None:
    """A forked process inherits the worker's ends of its sockets, so these do not end with the worker."""
    process = start(APP, *NO_PINGS, "--workers", "1")
    before = len(os.listdir(f"/proc/{process.pid}/fd"))
    ((worker, member),) = members_of(process, 1, opened).items()
    member.send(text("fork"))
    child = int(member.read_text())
    try:
        os.kill(worker, signal.SIGKILL)
        next_worker(process)
        members_of(process, 1, opened)
        assert len(os.listdir(f"/proc/{process.pid}/fd")) == before
    finally:
        os.kill(child, signal.SIGKILL)


def memory_bytes(pid: int) -> int:
    """The resident memory of a process."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_with_reload_and_in_one_process_there_is_no_relay(start: Start, opened: list[RawClient]) -> None:
    for arguments in ((), ("--reload",)):
        process = start(APP, *NO_PINGS, *arguments)
        one, two = Member(process.port), Member(process.port)
        opened += (one, two)
        one.send(text("hello"))
        assert one.read_text() == two.read_text() == "hello"
