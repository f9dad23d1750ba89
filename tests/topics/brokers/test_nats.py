"""What is NATS' own: subjects, URLs, confirmations, and a server that refuses, encrypts or takes nothing."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trustme
from hypothesis import example, given
from hypothesis import strategies as st

from asgiws.protocol.limits import KIB, MIB
from asgiws.topics.brokers.counting import Counting
from asgiws.topics.brokers.nats.broker import NatsBroker
from asgiws.topics.brokers.nats.session import NatsSession, subject_of
from asgiws.topics.brokers.nats.url import parse_url
from asgiws.topics.brokers.session import BrokerError
from asgiws.topics.history import START, Keep
from asgiws.topics.listener import Listener
from asgiws.topics.message import Message, TopicsUnavailable
from tests import PATIENCE_S
from tests.docs import ROOT
from tests.nats_server import NatsServer, nats_server
from tests.programs import edited
from tests.topics.brokers.machines import assert_whole, listen, read, until, workers_of
from tests.topics.test_relay import Clock

NAMES = st.text([chr(code) for code in range(0x21, 0x7F)], min_size=1, max_size=250)


def run(test: Callable[[], Awaitable[None]], patience_s: float = 2 * PATIENCE_S) -> None:
    async def limited() -> None:
        async with asyncio.timeout(patience_s):
            await test()
        assert not [task for task in asyncio.all_tasks() if "-packages/nats/" in repr(task)], (
            "nats-py has left something behind"
        )

    asyncio.run(limited())


# ---- names


@given(NAMES)
@example("a.b.*.>")
@example("..")
@example("%2E")
@example("$JS.API")
def test_a_topic_is_one_token_that_no_wildcard_is_in(name: str) -> None:
    prefix, _, token = subject_of(name).partition(".")
    assert prefix == "asgiws"
    assert re.fullmatch(r"[!-~]+", token)
    assert not set(token) & set(".*>")


@given(NAMES, NAMES)
@example("a.b", "a%2Eb")
def test_two_topics_have_two_subjects(one: str, other: str) -> None:
    assert (subject_of(one) == subject_of(other)) == (one == other)


def test_plain_names_are_subjects_as_they_are() -> None:
    assert subject_of("room:42/ada") == "asgiws.room:42/ada"
    assert subject_of("v1.orders") == "asgiws.v1%2Eorders"


# ---- URLs


@pytest.mark.parametrize(
    ("url", "servers", "user", "password", "encrypted"),
    [
        ("nats://one", ("nats://one:4222",), "", "", False),
        ("nats://ada:s%40crt@one:1", ("nats://one:1",), "ada", "s@crt", False),
        ("nats://token@[::1]:1", ("nats://[::1]:1",), "", "token", False),
        ("tls://ada:x@one:1,two/", ("nats://one:1", "nats://two:4222"), "ada", "x", True),
    ],
)
def test_url_is_understood(url: str, servers: tuple[str, ...], user: str, password: str, encrypted: bool) -> None:
    parsed = parse_url(url)
    assert (parsed.servers, parsed.user, parsed.password, parsed.encrypted) == (servers, user, password, encrypted)


def test_password_of_the_file_replaces_that_of_the_url() -> None:
    assert parse_url("nats://ada@one", "secret").password == "secret"
    assert (parse_url("nats://ada@one", "secret").user, parse_url("nats://one", "secret").user) == ("ada", "")


@pytest.mark.parametrize("rest", ["", "one/path", "one:0x1", "one:70000", "one,", "one?tls=1", "one?ssl_ca_certs="])
def test_url_that_is_not_understood_is_refused_without_its_password(rest: str) -> None:
    with pytest.raises(ValueError, match=r"^(nats://user:password@host|host:port|the parameters)") as refused:
        parse_url(f"nats://ada:secret@{rest}")
    assert "secret" not in str(refused.value)


# ---- a session


class Client:
    """A session, and what came."""

    def __init__(self, url: str, password: str = "") -> None:
        self.came: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.session = NatsSession(parse_url(url, password), self._take, f" probe:{id(self)}", Counting())

    def _take(self, topic: str, payload: bytes) -> None:
        self.came.put_nowait((topic, payload))

    async def __aenter__(self) -> Client:
        try:
            await self.session.open()
        except BaseException:
            await self.session.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()
        assert self.session.lost.done()


def test_what_is_published_after_a_subscription_comes(nats: NatsServer) -> None:
    async def test() -> None:
        async with Client(nats.url) as one, Client(nats.url) as other:
            for number in range(300):
                await one.session.subscribe([f"a.*.{number}", "b"])
                await other.session.publish(f"a.*.{number}", b"%d" % number)
                assert await one.came.get() == (f"a.*.{number}", b"%d" % number)
            await one.session.unsubscribe(["b"])
            await other.session.publish("b", b"nobody gets it")
            await one.session.publish("a.*.1", b"last")
            assert await one.came.get() == ("a.*.1", b"last")

    run(test)


def test_messages_of_one_publisher_keep_their_order(nats: NatsServer) -> None:
    async def test() -> None:
        async with Client(nats.url) as one, Client(nats.url) as other:
            await one.session.subscribe(["a"])
            await asyncio.gather(*(other.session.publish("a", b"%d" % number) for number in range(5000)))
            assert [int((await one.came.get())[1]) for _ in range(5000)] == list(range(5000))

    run(test)


@pytest.mark.parametrize(
    ("configuration", "credentials", "password"),
    [
        ('authorization: {user: "ada", password: "s3cret"}', "ada:s3cret@", ""),
        ('authorization: {user: "ada", password: "s3cret"}', "ada@", "s3cret"),
        ('authorization: {token: "s3cret"}', "s3cret@", ""),
        ('authorization: {token: "s3cret"}', "", "s3cret"),
    ],
)
def test_right_password_is_let_in_and_a_wrong_one_is_not_shown(
    tmp_path: Path, configuration: str, credentials: str, password: str
) -> None:
    pytest.importorskip("nats")

    async def test(address: str) -> None:
        async with Client(f"nats://{credentials}{address}", password):
            pass
        for wrong in ("ada:wr0ng@", "wr0ng@"):
            with pytest.raises(BrokerError, match=r"(?i)authorization violation") as refused:
                async with Client(f"nats://{wrong}{address}"):
                    pass
            assert "wr0ng" not in str(refused.value)

    with nats_server(tmp_path, configuration) as server:
        run(lambda: test(f"127.0.0.1:{server.port}"))


def test_account_of_the_documentation_is_enough_and_a_refused_topic_says_so(tmp_path: Path) -> None:
    pytest.importorskip("nats")
    (documented,) = re.findall(r"^authorization \{.*?^\}$", (ROOT / "deploy/README.md").read_text(), re.M | re.S)
    configuration = edited(documented, {
        "$NATS_PASSWORD": "s3cret", 'subscribe: "asgiws.>"': 'subscribe: {allow: "asgiws.>", deny: "asgiws.no"}',
    })  # fmt: skip

    async def test(url: str) -> None:
        async with Client(url) as client:
            with pytest.raises(BrokerError, match=r"(?i)permissions violation"):
                await client.session.subscribe(["no"])
            await client.session.subscribe(["yes"])
            await client.session.publish("yes", b"hello")
            assert await client.came.get() == ("yes", b"hello")
            assert not client.session.lost.done()

    with nats_server(tmp_path, configuration) as server:
        run(lambda: test(f"nats://chat:s3cret@127.0.0.1:{server.port}"))


def test_message_that_nats_does_not_take_is_refused_and_others_go_on(tmp_path: Path) -> None:
    pytest.importorskip("nats")

    async def test(url: str) -> None:
        async with Client(url) as client:
            await client.session.subscribe(["a"])
            with pytest.raises(BrokerError, match="maximum payload"):
                await client.session.publish("a", b"x" * 1025)
            await client.session.publish("a", b"x" * 1024)
            assert await client.came.get() == ("a", b"x" * 1024)

    with nats_server(tmp_path, "max_payload: 1024") as server:
        run(lambda: test(server.url))


def test_a_server_that_takes_nothing_is_waited_for_in_bounds_and_left_at_once(nats: NatsServer) -> None:
    async def test() -> None:
        async with Client(nats.url) as client:
            nats.suspend()
            publishing = [asyncio.create_task(client.session.publish("a", b"x" * 100 * KIB)) for _ in range(100)]
            for _ in range(100):
                await asyncio.sleep(0)
            assert not any(task.done() for task in publishing)
            assert client.session._unconfirmed_bytes < 2 * MIB
        for result in await asyncio.gather(*publishing, return_exceptions=True):
            assert isinstance(result, BrokerError)

    try:
        run(test)
    finally:
        nats.resume()


def test_a_server_that_is_killed_is_lost_at_once(nats: NatsServer) -> None:
    async def test() -> None:
        async with Client(nats.url) as client:
            nats.kill()
            assert await client.session.lost
            with pytest.raises(BrokerError):
                await client.session.subscribe(["a"])
            with pytest.raises(BrokerError):
                await client.session.publish("a", b"hello")

    run(test)


@pytest.mark.slow
def test_a_message_of_a_stranger_that_is_too_long_is_dropped(tmp_path: Path) -> None:
    pytest.importorskip("nats")
    with nats_server(tmp_path, "max_payload: 40000000, max_pending: 80000000") as server:

        async def test() -> None:
            async with workers_of(server.url, 2) as workers:
                listeners = [await listen(hub, "a") for hub in workers.hubs]
                server.publish("a", b"x" * 33 * MIB)
                server.publish("a", b"after it")
                assert [await read(listener, 1) for listener in listeners] == [["after it"]] * 2
                assert [hub.oversized for hub in workers.hubs] == [1, 1]

        run(test)


@pytest.mark.slow
def test_a_worker_that_does_not_read_has_a_gap(tmp_path: Path) -> None:
    """Its event loop is blocked until NATS gives up on it."""
    pytest.importorskip("nats")
    with nats_server(tmp_path, "max_payload: 262144, max_pending: 1048576") as server:

        async def test() -> None:
            async with workers_of(server.url, 1) as workers:
                listener = await listen(workers.hubs[0], "a")
                for _ in range(500):  # more than the buffers of the kernel hold
                    server.publish("a", b"x" * 64 * KIB)
                await workers.lost()
                await workers.connected()
                with pytest.raises(TopicsUnavailable):
                    await read(listener, 1_000_000)
                await assert_whole(workers, "a")

        run(test)


# ---- how many subscribe


def test_others_are_counted_and_a_worker_that_is_gone_is_not(nats: NatsServer) -> None:
    async def test() -> None:
        async with workers_of(nats.url, 3) as workers:
            first, second, third = (broker for broker in workers.brokers if isinstance(broker, NatsBroker))
            for hub in workers.hubs[1:]:
                await listen(hub, "a.b")
            second.report({"a.b": 5})
            third.report({"a.b": 2, "other": 3})
            assert [*await asyncio.gather(first.count("a.b"), first.count("a.b"), first.count("c"))] == [7, 7, 0]
            assert await second.count("a.b") == 2
            await third.close()
            second.report({"a.b": 6})
            assert await first.count("a.b") == 7  # as it was known
            clock = Clock()
            clock.pass_by(11)
            assert await first.count("a.b") == 6
            second.report({"a.b": 0})
            clock.pass_by(11)
            assert await first.count("a.b") == 0
            nats.kill()
            await until(lambda: first.state == "deaf")
            clock.pass_by(11)
            with pytest.raises(TopicsUnavailable):
                await first.count("a.b")

    run(test, 600)


def test_topics_with_history_are_refused(nats: NatsServer) -> None:
    async def test() -> None:
        async with workers_of(nats.url, 1) as workers:
            (hub,) = workers.hubs
            with pytest.raises(RuntimeError, match="keeps no messages, allowed: Topic without history, or Redis"):
                await hub.publish(Message("a", "hello", keep=Keep(10, 60)))
            with pytest.raises(RuntimeError, match="keeps no messages"):
                await hub.resume("a", Listener(1), START)
            await assert_whole(workers, "a")

    run(test)


# ---- encryption


@pytest.fixture
def authority() -> trustme.CA:
    """What the server's certificate comes from."""
    return trustme.CA()


@pytest.fixture
def encrypted(tmp_path: Path, authority: trustme.CA) -> Iterator[NatsServer]:
    """A server that requires TLS and a password."""
    pytest.importorskip("nats")
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = f'tls: {{cert_file: "{tmp_path}/tls.crt", key_file: "{tmp_path}/tls.key"}}'
    with nats_server(tmp_path, f'{tls}\nauthorization: {{token: "s3cret"}}') as server:
        yield server


def test_certificate_is_checked(encrypted: NatsServer, tmp_path: Path) -> None:
    async def test() -> None:
        url = f"tls://s3cret@localhost:{encrypted.port}"
        async with Client(f"{url}?ssl_ca_certs={tmp_path}/ca.pem") as client:
            await client.session.publish("a", b"hello")
        with pytest.raises(BrokerError, match="CERTIFICATE_VERIFY_FAILED"):
            async with Client(url):
                pass
        with pytest.raises(BrokerError, match="CERTIFICATE_VERIFY_FAILED"):
            async with Client(f"tls://s3cret@127.0.0.1:{encrypted.port}?ssl_ca_certs={tmp_path}/ca.pem"):
                pass
        with pytest.raises(BrokerError, match="No such file"):
            async with Client(f"{url}?ssl_ca_certs={tmp_path}/none.pem"):
                pass

    run(test)


@pytest.mark.parametrize("credentials", ["ada:s3cret@", "s3cret@"])
def test_password_is_not_sent_to_a_server_that_does_not_encrypt(credentials: str) -> None:
    pytest.importorskip("nats")
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "a", "version": "2.9.10", "max_payload": 1024, "auth_required": True}
        writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
        while data := await reader.read(1000):
            received.extend(data)
        writer.close()

    async def test() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(BrokerError, match="does not encrypt"):
                await Client(f"tls://{credentials}127.0.0.1:{port}").__aenter__()
        assert b"s3cret" not in received

    run(test)
