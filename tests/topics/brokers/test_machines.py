"""Two supervisors with two workers each, and one broker between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.admin.helpers import Admin, wait_until
from tests.raw import RawClient, close, text
from tests.redis_server import redis_server
from tests.server_process import RunCommand, ServerProcess, Start, assert_no_traceback
from tests.topics.brokers.conftest import BROKERS, BrokerServer
from tests.workers.test_topics import Member, members_of

APP = "tests.workers.topic_app:app"
SECRET = "the-secret-of-the-broker"


@pytest.fixture(params=sorted(BROKERS))
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerServer]:
    """A broker with a password."""
    pytest.importorskip(request.param)
    with BROKERS[request.param](tmp_path, password=SECRET) as server:
        yield server


@pytest.fixture
def opened() -> Iterator[list[RawClient]]:
    """Clients that are closed with the test."""
    clients: list[RawClient] = []
    yield clients
    for client in clients:
        client.socket.close()


@pytest.fixture
def machines(broker: BrokerServer, start: Start, tmp_path: Path) -> list[ServerProcess]:
    """Two supervisors."""
    password_file = tmp_path / "password"
    password_file.write_text(f"{SECRET}\n")
    return [
        start(
            APP, "--ping-interval", "0", "--workers", "2", "--admin", f"unix:{tmp_path / name}",
            "--broker-password-file", str(password_file), environ={"ASGIWS_BROKER": broker.url},
        )
        for name in ("one.sock", "two.sock")
    ]  # fmt: skip


def publish(process: ServerProcess, message: str) -> int:
    """Publish from an HTTP route; return the status."""
    with RawClient(process.port) as client:
        client.send(f"POST /room HTTP/1.1\r\nHost: a\r\nContent-Length: {len(message)}\r\n\r\n{message}".encode())
        return client.read_answer().status


def assert_all_get(members: list[Member], message: str) -> None:
    assert [member.read_text() for member in members] == [message] * len(members)


@pytest.mark.promise
def test_machines_share_topics_and_a_lost_broker_is_never_a_silent_gap(
    broker: BrokerServer, machines: list[ServerProcess], opened: list[RawClient], run_command: RunCommand
) -> None:
    first, second = machines
    admins = [Admin(machine) for machine in machines]
    members = [member for machine in machines for member in members_of(machine, 2, opened, "/room").values()]
    for member in members[::2]:
        member.send(text("hello"))
        assert_all_get(members, "hello")
    assert publish(second, "from a route") == 200
    assert_all_get(members, "from a route")
    broker.publish("room", b"from another program")
    assert_all_get(members, "from another program")
    for address in (broker.url_with_password, f"unix:{admins[0].path}"):
        assert run_command("publish", address, "room", "from a shell").code == 0
        assert_all_get(members, "from a shell")
    assert all(admin.is_ready() for admin in admins)

    broker.kill()
    wait_until(lambda: not any(admin.is_ready() for admin in admins))
    assert publish(first, "lost") == 500
    opened.append(RawClient(first.port))
    assert opened[-1].open_websocket("/elsewhere").status == 101
    opened.append(RawClient(first.port))
    assert opened[-1].open_websocket("/elsewhere").status == 101
    broker.start()
    wait_until(lambda: all(admin.is_ready() for admin in admins))
    for member in members:
        assert member.read_close() == (1012, "missed messages of a topic")
        member.send(close(1012))
    members = [member for machine in machines for member in members_of(machine, 2, opened, "/room").values()]
    assert publish(first, "again") == 200
    assert_all_get(members, "again")
    # Workers report once a second.
    wait_until(lambda: admins[0].status()["counts"]["broker_reconnects"][""] == 2)
    wait_until(lambda: admins[0].status()["levels"]["broker_deaf_workers"] == {"": 0})
    wait_until(lambda: admins[0].status()["counts"]["topic_gaps"] == {"": 2})

    for machine in machines:
        machine.terminate()
    for member in members:
        assert member.read_close() == (1012, "service restart")
        member.send(close(1012))
    for machine in machines:
        assert machine.wait() == 0
        assert SECRET not in "\n".join([*machine.stderr, *machine.rest_of_stderr()])
    faults = [line for line in second.stderr if "Traceback" in line]
    assert faults == []
    assert_no_traceback(second)


def test_without_its_broker_a_required_server_exits_with_one_line(start: Start, tmp_path: Path) -> None:
    for workers in ("0", "2"):
        process = start(
            APP, "--workers", workers, "--broker-required",
            environ={"ASGIWS_BROKER": f"unix://:{SECRET}@{tmp_path}/none.sock"}, wait_ready=False,
        )  # fmt: skip
        assert process.wait() == 1
        process.rest_of_stderr()
        said = [line for line in process.stderr if "cannot be reached" in line and line.startswith("asgiws: ")]
        assert len(said) == 1
        assert f"broker unix://{tmp_path}/none.sock cannot be reached: " in said[0]
        assert SECRET not in "\n".join(process.stderr)


def test_a_server_serves_while_it_waits_for_its_broker(start: Start, tmp_path: Path, opened: list[RawClient]) -> None:
    pytest.importorskip("redis")
    process = start(APP, "--admin", f"unix:{tmp_path}/admin.sock", "--broker", f"unix://{tmp_path}/redis.sock",
                    "--health-path", "/healthz")  # fmt: skip
    admin = Admin(process)
    assert not admin.is_ready()
    with RawClient(process.port) as client:
        client.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_answer().status == 503
    assert publish(process, "too early") == 500
    with redis_server(tmp_path):
        wait_until(admin.is_ready)
        members = list(members_of(process, 1, opened, "/room").values())
        assert publish(process, "hello") == 200
        assert_all_get(members, "hello")
        assert admin.status()["counts"]["topic_gaps"] == {"": 0}
