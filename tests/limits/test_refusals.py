"""What a client over a limit receives: a status with Retry-After or, with `--refusal close`, a Close that says so."""

from __future__ import annotations

import logging
import re
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from asgiws.admin.view import view_lines
from asgiws.config.option import OptionError
from asgiws.config.options import Config
from asgiws.telemetry.scoreboard import Scoreboard
from tests.apps import echo
from tests.conftest import RunningServer, Serve
from tests.limits.admission import Doorman, begin, retry_after, wait_until
from tests.raw import ACCEPT, RawClient, close, handshake, text

TENANTS: dict[str, object] = {"max_connections_by": "header:X-Tenant=2"}
LIMITS: dict[str, dict[str, object]] = {
    "too-many-connections": {"max_connections": 2},
    "too-many-from-address": {"max_connections_per_address": 2},
    "too-many-of-tenant": TENANTS,
}
"""Options that allow two WebSockets, by the rule that the third breaks."""
OF_A = "X-Tenant: a"


def open_two(server: RunningServer, stack: ExitStack) -> list[RawClient]:
    clients = [stack.enter_context(RawClient(server.port)) for _ in range(2)]
    for client in clients:
        client.open_websocket("/", OF_A)
    return clients


@pytest.mark.parametrize("rule", LIMITS)
def test_close_that_a_page_can_see_takes_the_place_of_a_status(
    serve: Serve, rule: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(echo, refusal="close", retry_after=3, **LIMITS[rule])
    with caplog.at_level(logging.INFO, "asgiws"), ExitStack() as stack:
        first, _ = open_two(server, stack)
        with RawClient(server.port) as third:
            offers = ["Sec-WebSocket-Protocol: one, two", "Sec-WebSocket-Extensions: permessage-deflate"]
            third.send(handshake("/", OF_A, *offers) + text("early"))
            answer = third.read_answer()
            assert (answer.status, answer.header(b"sec-websocket-accept")) == (101, ACCEPT)
            # Browsers fail a connection that lacks an offered subprotocol, before they read the Close.
            assert answer.header(b"sec-websocket-protocol") == b"one"
            assert answer.header(b"sec-websocket-extensions") is None
            code, reason = third.read_close()
            assert code == 1013
            assert re.fullmatch(rf"{rule} retry-after=[123]", reason)
            third.send(close(1013))
            assert third.read_to_end() == b""
        first.send(close())
        first.read_to_end()
        with RawClient(server.port) as third:
            third.open_websocket("/", OF_A)
        (line,) = [record.getMessage() for record in caplog.records if "rejected" in record.getMessage()]
        assert re.search(rf" rejected 1013 /: 2 .*, the limit \({rule}\)$", line)
        counts = server.call(server.server.report)["counts"]
        assert counts["rejections"] == {rule: 1}
        assert counts["websocket_handshakes"]["rejected"] == 1


def test_client_of_others_reads_code_and_hint(serve: Serve) -> None:
    server = serve(echo, refusal="close", max_connections=1)
    with connect(server.ws_url), connect(server.ws_url) as second:
        with pytest.raises(ConnectionClosed) as ended:
            second.recv()
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1013
        assert ended.value.rcvd.reason.startswith("too-many-connections retry-after=")


def test_rate_is_refused_with_a_close_too(serve: Serve) -> None:
    server = serve(echo, refusal="close", handshake_rate=1)

    def is_refused() -> bool:  # a second may begin between two handshakes
        with RawClient(server.port) as client:
            client.send(handshake())
            assert client.read_answer().status == 101
            client.send(close())
            code, reason = client.read_close()
        return code == 1013 and reason.startswith("too-many-handshakes retry-after=")

    wait_until(is_refused)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 503),
        (handshake().replace(b"Version: 13", b"Version: 12"), 426),
        (handshake("/", "Origin: https://evil.example"), 403),
    ],
    ids=["request", "bad-handshake", "origin"],
)
def test_what_is_no_proper_handshake_gets_a_status(serve: Serve, request_: bytes, status: int) -> None:
    server = serve(echo, refusal="close", max_connections=1, allowed_origins=["https://good.example"])
    with RawClient(server.port) as first, RawClient(server.port) as second:
        first.open_websocket()
        second.send(request_)
        assert second.read_answer().status == status


def test_place_that_is_free_when_the_head_comes_is_used(serve: Serve) -> None:
    server = serve(echo, refusal="close", max_connections=1)
    with RawClient(server.port) as first, RawClient(server.port) as second:
        first.open_websocket()
        wait_until(lambda: server.server.connection_count == 2)
        first.send(close())
        first.read_to_end()
        wait_until(lambda: server.server.connection_count == 1)
        second.open_websocket()
        second.send(text("hello"))
        assert second.read_text() == "hello"
    wait_until(lambda: server.call(lambda: server.server.worker.admission.admitted) == 0)


def test_application_that_does_not_answer_in_time_is_refused_with_a_close(serve: Serve) -> None:
    app = Doorman()
    server = serve(app, graceful_timeout=0.1, refusal="close", handshake_timeout=0.2)
    with begin(server, "/1") as client:
        assert client.read_answer().status == 101
        code, reason = client.read_close()
        assert (code, reason.partition("=")[0]) == (1013, "handshake-timeout retry-after")
        client.send(close(1013))
        assert client.read_to_end() == b""


def test_refused_clients_are_asked_to_return_at_random_times(serve: Serve) -> None:
    server = serve(echo, max_connections=1, retry_after=3)
    with RawClient(server.port) as first:
        first.open_websocket()
        seen = set()
        for _ in range(80):
            with RawClient(server.port) as client:
                seen.add(retry_after(client.read_answer()))
        assert seen == {1, 2, 3}


# ---- limits by tenant


def statuses(server: RunningServer, stack: ExitStack, *fields: str) -> list[int]:
    """The answers to three handshakes, of which those that are accepted stay open."""
    found = []
    for _ in range(3):
        client = stack.enter_context(RawClient(server.port))
        client.send(handshake("/", *fields))
        found.append(client.read_answer().status)
    return found


def test_each_tenant_has_a_limit_of_its_own(serve: Serve) -> None:
    server = serve(echo, **TENANTS)
    with ExitStack() as stack:
        assert statuses(server, stack, "X-Tenant: a") == [101, 101, 503]
        assert statuses(server, stack, "X-Tenant: b") == [101, 101, 503]
        assert statuses(server, stack) == statuses(server, stack, "X-Tenant:") == [101, 101, 101]
        assert server.call(server.server.report)["tenants"] == {"a": 2, "b": 2}
    wait_until(lambda: server.call(server.server.report)["tenants"] == {})


def test_field_of_a_peer_that_is_no_trusted_proxy_is_ignored(serve: Serve) -> None:
    server = serve(echo, **TENANTS, forwarded_allow_ips=["192.0.2.1"])
    with ExitStack() as stack:
        assert statuses(server, stack, "X-Tenant: a") == [101, 101, 101]
        assert server.call(server.server.report)["tenants"] == {}


def test_proxy_that_adds_its_field_behind_the_clients_is_believed(serve: Serve) -> None:
    server = serve(echo, **TENANTS)
    with ExitStack() as stack:
        found = [statuses(server, stack, f"X-Tenant: {claim}", "X-Tenant: a") for claim in "xyz"]
        assert found == [[101, 101, 503], [503] * 3, [503] * 3]


def test_handshakes_that_wait_or_are_refused_later_count_as_long_as_they_are_there(serve: Serve) -> None:
    app = Doorman()
    server = serve(app, graceful_timeout=0.1, **TENANTS, max_opening=1)
    with begin(server, "/1", OF_A) as first, begin(server, "/2", OF_A) as second:
        wait_until(lambda: server.call(server.server.report)["tenants"] == {"a": 2})
        with begin(server, "/3", OF_A) as third:
            assert third.read_answer().status == 503
        second.reset()
        wait_until(lambda: server.call(server.server.report)["tenants"] == {"a": 1})
        app.asked.next()
        app.answer(server, "/1", "close")
        assert first.read_answer().status == 403
        wait_until(lambda: server.call(server.server.report)["tenants"] == {})


def test_live_view_shows_the_ten_largest_tenants_of_all_workers(serve: Serve) -> None:
    server = serve(echo, max_connections_by="header:x-tenant=5")
    with ExitStack() as stack:
        for number in range(12):
            for _ in range(2 if number < 2 else 1):
                stack.enter_context(RawClient(server.port)).open_websocket("/", f'X-Tenant: t{number}"{"x" * 100}')
        report = server.call(server.server.report)
        scoreboard = Scoreboard()
        scoreboard.update("one", report)
        scoreboard.update("other", report)
        status = scoreboard.status([], ready=True, draining=False)
        assert len(status["tenants"]) == 10
        (line,) = (line for line in view_lines(status, None, 0, width=None, height=None) if line.startswith("tenants"))
        assert line.split()[1].startswith('t0\\"xxx')
        assert line.split()[2] == "4"
        assert len(line) < 10 * 100


@pytest.mark.parametrize(
    "value", ["x-tenant=500", "header:x-tenant", "header:x tenant:=5", "header:x-tenant=0", "ip=5"]
)
def test_limit_that_is_none_is_one_clear_line(value: str) -> None:
    with pytest.raises(OptionError, match=r"^--max-connections-by: .* was given, allowed: header:NAME=COUNT, such as"):
        Config(max_connections_by=value)


@pytest.mark.parametrize("options", [{"proxy_headers": False}, {"forwarded_allow_ips": ()}])
def test_limit_by_a_field_that_nobody_may_set_is_one_clear_line(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=r"^--max-connections-by: .* no proxy is trusted, allowed: with"):
        Config.from_options({**TENANTS, **options})
