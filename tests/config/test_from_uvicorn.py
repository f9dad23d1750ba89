"""The page for users of uvicorn: none of its options is missing, and what is called the same is taken."""

from __future__ import annotations

import re
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

import pytest
from uvicorn.main import main as uvicorn_command

from asgiws.cli import make_parser
from asgiws.config.options import Config
from asgiws.config.other_servers import instead_of
from asgiws.config.sources import Settings
from asgiws.server.asgi import Scope
from tests.apps import Receive, Send
from tests.conftest import Serve
from tests.docs import ROOT
from tests.raw import RawClient

PAGE = ROOT / "deploy" / "from-uvicorn.md"


class Row(NamedTuple):
    """A row of the page."""

    flags: tuple[str, ...]
    taken: str
    here: str


ROWS = [
    Row(tuple(re.findall(r"`(--[a-z0-9-]+)`", flags)), taken, here.strip(" `"))
    for flags, taken, here in re.findall(r"^\| (`--[^|]*) \| (\w+) \|([^|]*)\|", PAGE.read_text(), re.M)
]
SAME = [row for row in ROWS if row.taken == "same" and row.here not in ("--help", "--version")]

# A command line for each flag that is the same, the keyword of the option, and the value that it has then.
GIVEN: dict[str, tuple[list[str], str, object]] = {
    "--host": (["--host", "::1"], "host", "::1"),
    "--port": (["--port", "80"], "port", 80),
    "--uds": (["--uds", "/run/app.sock"], "uds", "/run/app.sock"),
    "--fd": (["--fd", "3"], "fd", 3),
    "--reload": (["--reload"], "reload", True),
    "--reload-dir": (["--reload-dir", "src", "--reload-dir", "lib"], "reload_dir", ("src", "lib")),
    "--reload-include": (["--reload-include", "*.html"], "reload_include", ("*.html",)),
    "--reload-exclude": (["--reload-exclude", "*.tmp"], "reload_exclude", ("*.tmp",)),
    "--reload-delay": (["--reload-delay", "0.5"], "reload_delay", 0.5),
    "--workers": (["--workers", "4"], "workers", 4),
    "--loop": (["--loop", "asyncio"], "loop", "asyncio"),
    "--ws-max-size": (["--ws-max-size", "1024"], "max_message_size", 1024),
    "--ws-max-queue": (["--ws-max-queue", "8"], "max_queue", 8),
    "--ws-ping-interval": (["--ws-ping-interval", "1.5"], "ping_interval", 1.5),
    "--ws-ping-timeout": (["--ws-ping-timeout", "2"], "ping_timeout", 2.0),
    "--ws-per-message-deflate": (["--ws-per-message-deflate", "false"], "compression", "off"),
    "--lifespan": (["--lifespan", "off"], "lifespan", "off"),
    "--env-file": (["--env-file", "site.env"], "env_file", "site.env"),
    "--log-config": (["--log-config", "log.json"], "log_config", "log.json"),
    "--log-level": (["--log-level", "debug"], "log_level", "debug"),
    "--access-log": (["--access-log"], "access_log", True),
    "--no-access-log": (["--no-access-log"], "access_log", False),
    "--use-colors": (["--use-colors"], "use_colors", "yes"),
    "--no-use-colors": (["--no-use-colors"], "use_colors", "no"),
    "--proxy-headers": (["--proxy-headers"], "proxy_headers", True),
    "--no-proxy-headers": (["--no-proxy-headers"], "proxy_headers", False),
    "--server-header": (["--server-header"], "server_header", True),
    "--no-server-header": (["--no-server-header"], "server_header", False),
    "--date-header": (["--date-header"], "date_header", True),
    "--no-date-header": (["--no-date-header"], "date_header", False),
    "--forwarded-allow-ips": (
        ["--forwarded-allow-ips", "10.0.0.1,fd00::/8"], "forwarded_allow_ips", ("10.0.0.1,fd00::/8",),
    ),
    "--root-path": (["--root-path", "/api"], "root_path", "/api"),
    "--limit-concurrency": (["--limit-concurrency", "100"], "max_connections", 100),
    "--backlog": (["--backlog", "16"], "backlog", 16),
    "--limit-max-requests": (["--limit-max-requests", "1000"], "max_requests", 1000),
    "--limit-max-requests-jitter": (["--limit-max-requests-jitter", "50"], "max_requests_jitter", 50),
    "--timeout-keep-alive": (["--timeout-keep-alive", "7"], "keep_alive_timeout", 7.0),
    "--timeout-graceful-shutdown": (["--timeout-graceful-shutdown", "9"], "graceful_timeout", 9.0),
    "--timeout-worker-healthcheck": (["--timeout-worker-healthcheck", "5"], "worker_timeout", 5.0),
    "--ssl-keyfile": (["--ssl-certfile", "c.pem", "--ssl-keyfile", "k.pem"], "ssl_keyfile", "k.pem"),
    "--ssl-certfile": (["--ssl-certfile", "c.pem"], "ssl_certfile", "c.pem"),
    "--ssl-keyfile-password": (
        ["--ssl-certfile", "c.pem", "--ssl-keyfile-password", "hunter2"], "ssl_keyfile_password", "hunter2",
    ),
    "--ssl-cert-reqs": (
        ["--ssl-certfile", "c.pem", "--ssl-ca-certs", "a.pem", "--ssl-cert-reqs", "2"], "ssl_client_cert", "required",
    ),
    "--ssl-ca-certs": (
        ["--ssl-certfile", "c.pem", "--ssl-ca-certs", "a.pem", "--ssl-cert-reqs", "1"], "ssl_ca_certs", "a.pem",
    ),
    "--ssl-ciphers": (["--ssl-certfile", "c.pem", "--ssl-ciphers", "ECDHE+AESGCM"], "ssl_ciphers", "ECDHE+AESGCM"),
    "--header": (["--header", "a: b", "--header", "c: d, e"], "header", ("a: b", "c: d, e")),
    "--app-dir": (["--app-dir", "src"], "app_dir", "src"),
    "--h11-max-incomplete-event-size": (["--h11-max-incomplete-event-size", "1000"], "max_head_size", 1000),
    "--factory": (["--factory"], "factory", True),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the env file that a command line names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.env").touch()


def test_page_has_every_option_of_uvicorn_once() -> None:
    theirs = {flag for option in uvicorn_command.params for flag in (*option.opts, *option.secondary_opts)} - {"app"}
    ours = [flag for row in ROWS for flag in row.flags]
    assert sorted(ours) == sorted(theirs | {"--help"})


def test_rows_are_same_or_other_or_no() -> None:
    """What is other has another name, and what is not there has none."""
    assert {row.taken for row in ROWS} == {"same", "other", "no"}
    for row in ROWS:
        assert bool(row.here) == (row.taken != "no")


def test_what_is_not_the_same_is_refused() -> None:
    """A flag that was taken and did nothing would be worse."""
    taken = set(make_parser()._option_string_actions)
    assert {flag for row in ROWS if row.taken != "same" for flag in row.flags} & taken == set()


@pytest.mark.parametrize(("flag", "row"), [(flag, row) for row in ROWS if row.taken != "same" for flag in row.flags])
def test_what_is_not_the_same_is_answered_with_what_to_write(flag: str, row: Row) -> None:
    """An option of ours where the page names one, else that it can be left out."""
    assert (row.here or "leave it out") in instead_of(flag)


def test_every_flag_that_is_the_same_is_given_below() -> None:
    assert sorted(GIVEN) == sorted(flag for row in SAME for flag in row.flags)


@pytest.mark.parametrize(("flag", "row"), [(flag, row) for row in SAME for flag in row.flags], ids=str)
def test_flag_of_uvicorn_gives_the_option_of_its_row(flag: str, row: Row) -> None:
    """A command line that was written for uvicorn works unchanged."""
    arguments, name, value = GIVEN[flag]
    assert flag in arguments
    assert row.here == f"--{name.replace('_', '-')}"
    config = Settings.load(vars(make_parser().parse_args(["app:app", *arguments])), {}).config
    assert getattr(config, name) == value


@pytest.mark.parametrize(
    ("value", "mode"), [("true", "shared"), ("True", "shared"), ("1", "shared"), ("False", "off"), ("0", "off")]
)
def test_compression_takes_what_uvicorn_takes_for_yes_and_no(value: str, mode: str) -> None:
    flags = vars(make_parser().parse_args(["--ws-per-message-deflate", value]))
    assert Settings.load(flags, {}).config == Config(compression=mode)


def test_flags_that_the_page_names_exist() -> None:
    """Those of uvicorn stand in its first column."""
    known = {flag for row in ROWS for flag in row.flags} | set(make_parser()._option_string_actions)
    for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", PAGE.read_text()):
        assert flag in known, f"{PAGE.name} names {flag}"


def test_requests_have_contexts_of_their_own(serve: Serve) -> None:
    """What uvicorn's --reset-contextvars is for: one request sets nothing that another one sees."""
    seen: ContextVar[str] = ContextVar("seen", default="nothing")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            seen.set("the startup")
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        before = seen.get()
        seen.set("a request")
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": before.encode()})

    server = serve(app, lifespan="on")
    with RawClient(server.port) as client:
        for _ in range(2):
            client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.read_answer().body == b"nothing"
