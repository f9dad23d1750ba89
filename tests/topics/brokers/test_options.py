"""The options of brokers: what is refused before anything starts, and what is never shown."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from asgiws.config.broker_url import redact_broker_url
from asgiws.config.options import Config
from asgiws.topics.message import TopicsUnavailable
from tests.redis_server import redis_server
from tests.server_process import RunCommand, assert_one_line
from tests.topics.brokers.machines import listen, read, run, until, workers_of

APP = "tests.topics.chat:app"
SECRET = "the-secret-of-redis"


@pytest.mark.parametrize(
    "url",
    ["http://host", "redis:host", "redis://", "redis://host:0", "redis://host:port", "redis://a b", "redis+unix://",
     "host:6379", f"redis://user:{SECRET}@", f"nothing://user:{SECRET}@host"],
)  # fmt: skip
def test_a_wrong_url_is_one_line(execute_here: RunCommand, url: str) -> None:
    ended = execute_here(APP, "--broker", url)
    assert_one_line(ended, 2, "--broker: ", "allowed: redis://[user:password@]host[:port][/database], ")
    assert SECRET not in ended.stderr[0]


@pytest.mark.parametrize("check", [[], ["--check-config"]])
@pytest.mark.parametrize(("package", "name"), [("redis", "redis"), ("nats", "nats-py")])
def test_a_package_that_is_missing_is_one_line(
    execute_here: RunCommand, monkeypatch: pytest.MonkeyPatch, check: list[str], package: str, name: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    ended = execute_here(APP, *check, "--broker", f"{package}://:{SECRET}@host")
    assert_one_line(
        ended, 2, f"--broker: {package}://host needs {name}, which is not installed; pip install 'asgiws[{package}]'"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--broker", f"redis://:{SECRET}@host?max_connections=3"],
            "redis://host was given with what redis does not take",
        ),
        (
            ["--broker", f"nats://:{SECRET}@one:1,two/path"],
            "nats://one:1,two/path was given, allowed: nats://user:password@host:4222 or tls://...",
        ),
        (
            ["--broker", f"tls://:{SECRET}@host?ssl_ca_file={SECRET}"],
            "tls://host was given, allowed: the parameters ssl_ca_certs, ssl_certfile, ssl_keyfile, each with",
        ),
        (
            ["--broker", "redis://host", "--broker-password-file", "/none"],
            "--broker-password-file: '/none' was given, No",
        ),
        (["--broker-required"], "--broker-required was given without --broker"),
        (["--broker-password-file", "/none"], "--broker-password-file was given without --broker"),
        (["--topic-gap", "quiet"], "--topic-gap: 'quiet' was given, allowed: close, ignore"),
    ],
)
def test_what_cannot_work_is_one_line(execute_here: RunCommand, arguments: list[str], said: str) -> None:
    ended = execute_here(APP, "--check-config", *arguments)
    assert_one_line(ended, 2, said)
    assert SECRET not in ended.stderr[0]


def test_the_listing_of_options_shows_no_password(execute_here: RunCommand) -> None:
    url = f"rediss://user:{SECRET}@host/1?password={SECRET}"
    ended = execute_here(APP, "--check-config", environ={"ASGIWS_BROKER": url})
    assert ended.code == 0
    assert next(line for line in ended.stdout if line.startswith("broker =")).startswith('broker = "rediss://host/1"')
    assert SECRET not in "\n".join([*ended.stdout, *ended.stderr])
    assert SECRET not in repr(Config(broker=f"redis://:{SECRET}@host"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:pass@word@host:1/2?password=word#word", "redis://host:1/2"),
        ("redis+unix://:word@/run/redis.sock", "redis+unix:///run/redis.sock"),
        ("nats://word@one:1,two", "nats://one:1,two"),
        ("what:word", "***"),
        ("http://user:word@host", "***"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert redact_broker_url(url) == shown


def test_a_password_is_read_again_for_each_connection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    password = tmp_path / "password"
    password.write_text("wrong")
    with redis_server(tmp_path, password=SECRET) as redis:

        async def test() -> None:
            url = redis.url.replace("unix://", f"unix://:{SECRET}-not@")
            async with workers_of(url, 1, broker_password_file=str(password)) as workers:
                hub = workers.hubs[0]
                with pytest.raises(TopicsUnavailable, match=r"WRONGPASS|invalid"):
                    await listen(hub, "a")
                password.write_text(f"{SECRET}\n")
                await workers.connected()
                listener = await listen(hub, "a")
                redis.client().publish("asgiws:a", "hello")
                assert await read(listener, 1) == ["hello"]

        run(test)
    assert SECRET not in caplog.text


def test_a_wrong_database_is_an_error_of_the_connection(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:

        async def test() -> None:
            async with workers_of(f"{redis.url}?db=99", 1) as workers:
                with pytest.raises(TopicsUnavailable, match=r"cannot be reached: .*(DB index|database)"):
                    await listen(workers.hubs[0], "a")

        run(test)


def test_a_user_with_the_documented_permissions_suffices(tmp_path: Path) -> None:
    page = Path("asgiws/topics/README.md").read_text()
    rule = next(line for line in page.splitlines() if line.strip().startswith("ACL SETUSER asgiws")).split()[3:]
    with redis_server(tmp_path) as redis:
        client = redis.client()
        client.execute_command("ACL", "SETUSER", "asgiws", *rule)  # type: ignore[no-untyped-call]

        async def test() -> None:
            url = redis.url.replace("unix://", "unix://asgiws:secret@")
            async with workers_of(url, 2, topic_prefix="p-") as workers:
                listener = await listen(workers.hubs[0], "p-a")
                client.publish("asgiws:p-a", "hello")
                assert await read(listener, 1) == ["hello"]
                client.execute_command("ACL", "SETUSER", "asgiws", "resetchannels", "&other:*")  # type: ignore[no-untyped-call]
                await workers.lost()
                await until(lambda: all(broker.state == "deaf" for broker in workers.brokers))
                with pytest.raises(TopicsUnavailable, match="permission"):
                    await listen(workers.hubs[0], "p-b")

        run(test)
