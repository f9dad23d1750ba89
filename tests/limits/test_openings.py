"""`--max-opening`: so many handshakes are with the application, the others wait in order, and none waits for ever."""

from __future__ import annotations

import functools
import logging
import re
from contextlib import ExitStack
from itertools import islice, product
from string import ascii_letters

import pytest

from asgiws.admin.view import view_lines
from asgiws.config.options import Config
from asgiws.server.memory import waiting_terms
from asgiws.telemetry.scoreboard import Scoreboard
from tests.apps import Recorder
from tests.conftest import RunningServer, Serve
from tests.limits.admission import Doorman, begin, queue, retry_after, wait_until, waiting
from tests.limits.memory import MIB, SLACK_BYTES, Memory, push
from tests.raw import RawClient, close, handshake, text
from tests.server_process import Start


def openings_line(server: RunningServer) -> str:
    """The line of `asgiws top` about handshakes that wait."""
    scoreboard = Scoreboard()
    scoreboard.update("one", server.call(server.server.report))
    status = scoreboard.status([], ready=True, draining=False)
    (line,) = (line for line in view_lines(status, None, 0, width=None, height=None) if line.startswith("openings"))
    return line


def test_handshakes_wait_in_order_for_a_place_with_the_application(serve: Serve) -> None:
    app = Doorman()
    server = serve(app, max_opening=2, graceful_timeout=0.1)
    with ExitStack() as open_ones:
        first, second = (open_ones.enter_context(begin(server, path)) for path in ("/1", "/2"))
        assert {app.asked.next(), app.asked.next()} == {"/1", "/2"}
        third, fourth = map(open_ones.enter_context, queue(server, "/3", "/4"))
        assert app.asked.empty
        assert " 2 with the application, 2 waiting" in openings_line(server)
        app.answer(server, "/2")
        assert second.read_answer().status == 101
        assert app.asked.next() == "/3"
        app.answer(server, "/1")
        assert app.asked.next() == "/4"
        app.answer(server, "/4")
        app.answer(server, "/3")
        for client in (first, third, fourth):
            assert client.read_answer().status == 101
        for client in (first, second, third, fourth):
            client.send(text("hello"))
            assert client.read_text() == "hello"
        report = server.call(server.server.report)
        assert report["levels"]["connections"]["waiting"] == report["levels"]["websocket_openings"][""] == 0
        assert sum(report["histograms"]["websocket_wait"]["counts"]) == 2
        assert re.search("waited half [<>].*, 99 % [<>]", openings_line(server))


@pytest.mark.parametrize(
    ("path", "how"),
    [
        ("/1", "accept"), ("/1", "return"), ("/1", "raise"), ("/1/works-on", "accept"), ("/1/works-on", "close"),
        ("/1/works-on", "response"),
    ],
)  # fmt: skip
def test_every_answer_of_the_application_frees_the_place(serve: Serve, path: str, how: str) -> None:
    """Also when it works on for its client afterwards."""
    app = Doorman()
    server = serve(app, max_opening=1, graceful_timeout=0.1)
    with begin(server, path):
        assert app.asked.next() == path
        (second,) = queue(server, "/2")
        app.answer(server, path, how)
        assert app.asked.next() == "/2"
        second.socket.close()


@pytest.mark.parametrize("leave", ["close", "reset", "half-close"])
def test_client_that_leaves_while_it_waits_is_forgotten(serve: Serve, leave: str) -> None:
    app = Doorman()
    server = serve(app, max_opening=1, graceful_timeout=0.1)
    with begin(server, "/1"):
        assert app.asked.next() == "/1"
        second, third = queue(server, "/2", "/3")
        {"close": second.socket.close, "reset": second.reset, "half-close": second.half_close}[leave]()
        wait_until(lambda: waiting(server) == 1)
        app.answer(server, "/1")
        assert app.asked.next() == "/3"
        assert server.call(server.server.report)["counts"]["websocket_handshakes"]["abandoned"] == 1
        third.socket.close()
        second.socket.close()


def test_place_of_a_client_that_has_left_is_free_when_its_application_returns(serve: Serve) -> None:
    """Otherwise clients that lose patience and return would put any number of handshakes to the application."""
    app = Doorman()
    server = serve(app, max_opening=1, graceful_timeout=0.1)
    first = begin(server, "/1")
    assert app.asked.next() == "/1"
    (second,) = queue(server, "/2")
    first.reset()
    wait_until(lambda: server.server.connection_count == 1)
    assert (waiting(server), app.asked.empty) == (1, True)
    app.answer(server, "/1")  # its accept raises: the client has left
    assert app.asked.next() == "/2"
    second.socket.close()


@pytest.mark.slow
def test_application_that_never_returns_keeps_its_place_for_the_timeout_only(serve: Serve) -> None:
    app = Doorman()
    server = serve(app, max_opening=1, graceful_timeout=0.1, handshake_timeout=0.2)
    with begin(server, "/stuck") as client:
        assert app.asked.next() == "/stuck"
        client.reset()

    def is_served() -> bool:
        with begin(server, "/next") as client:
            answer = client.read_answer()
        assert answer.status == 503
        return answer.body.startswith(b"handshake-timeout")

    wait_until(is_served)
    assert app.asked.next() == "/next"


@pytest.mark.parametrize("refusal", ["http", "close"])
def test_handshake_that_waits_too_long_is_refused(serve: Serve, refusal: str) -> None:
    app = Doorman()
    server = serve(app, max_opening=1, graceful_timeout=0.1, handshake_timeout=0.2, retry_after=3, refusal=refusal)
    reason = b"too-many-openings: 0.2 s without a place among 1 handshakes with the application\n"

    def is_refused() -> bool:
        # A second longer than the timeout, the place is that of an application whose client has left.
        with begin(server, "/1") as first:
            assert app.asked.next() == "/1"
            first.reset()
        with begin(server, "/2") as second:
            answer = second.read_answer()
            if refusal == "http":
                assert (answer.status, retry_after(answer) in range(1, 4)) == (503, True)
                refused = answer.body == reason
            else:
                assert answer.status == 101
                code, hint = second.read_close()
                assert (code, re.search(" retry-after=[123]$", hint) is not None) == (1013, True)
                refused = hint.startswith("too-many-openings ")
            if not refused:  # this machine is slow, and the place was free again
                assert app.asked.next() == "/2"
        return refused

    wait_until(is_refused)
    counts = server.call(server.server.report)["counts"]
    assert counts["rejections"]["too-many-openings"] == 1
    assert counts["websocket_handshakes"]["rejected"] == 1
    assert app.asked.empty


def test_wait_is_one_line_and_its_end_another(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """However many wait, and however often the queue is empty in between."""
    app = Doorman()
    server = serve(app, max_opening=1, graceful_timeout=0.1)
    openings = server.server.worker.admission.openings

    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if "wait" in record.getMessage()]

    with caplog.at_level(logging.INFO, "asgiws"), begin(server, "/1"):
        assert app.asked.next() == "/1"
        for paths in (("/2", "/3"), ("/4",)):
            for client in queue(server, *paths):
                client.socket.close()
            wait_until(lambda: waiting(server) == 0)
        assert lines() == ["handshakes wait: as many as --max-opening allows are with the application (1)"]
        for _ in range(10):
            server.call(openings.second_passed)
        assert lines()[1:] == ["no handshake waits any more; 3 handshakes did"]
        (client,) = queue(server, "/5")
        assert len(lines()) == 3
        client.socket.close()


@pytest.mark.parametrize("refusal", ["http", "close"])
def test_stop_answers_those_that_wait(serve: Serve, refusal: str) -> None:
    app = Doorman()
    server = serve(app, max_opening=1, graceful_timeout=600, refusal=refusal, retry_hint=5)
    clients = [begin(server, "/first")]
    assert app.asked.next() == "/first"
    clients += [begin(server, f"/{number}") for number in range(100)]
    wait_until(lambda: waiting(server) == 100)
    server.begin_stop()
    for client in clients:
        answer = client.read_answer()
        if refusal == "http":
            assert (answer.status, retry_after(answer) in range(1, 11)) == (503, True)
        else:
            assert answer.status == 101
            code, reason = client.read_close()
            assert (code, reason.partition("=")[0]) == (1012, "service restart retry-after")
        client.socket.close()
    assert app.asked.empty
    app.answer(server, "/first")


def test_server_that_is_replaced_refuses_none_of_those_that_wait(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are closed as the others are, and reconnect to the server that has taken over."""
    app = Doorman()
    server = serve(app, max_opening=1, graceful_timeout=600)
    monkeypatch.setattr(server.server, "stop", functools.partial(server.server.stop, replaced=True))
    with begin(server, "/1") as first:
        assert app.asked.next() == "/1"
        (second,) = queue(server, "/2")
        server.begin_stop()
        assert second.read_answer().status == 101
        assert second.read_close()[0] == 1012
        second.socket.close()
        app.answer(server, "/1")
        assert first.read_answer().status == 101
        assert first.read_close()[0] == 1012


def test_head_that_does_not_end_takes_no_place(serve: Serve) -> None:
    app = Doorman()
    server = serve(app, max_opening=1, graceful_timeout=0.1)
    with RawClient(server.port) as slow, begin(server, "/2"):
        slow.send(handshake("/1")[:-2])
        assert app.asked.next() == "/2"
        app.answer(server, "/2")
        slow.send(b"\r\n")
        assert app.asked.next() == "/1"


def test_handshake_on_a_kept_connection_waits_with_what_was_sent_early(serve: Serve) -> None:
    """And behind a proxy: it is the client's handshake, whose address the application sees."""
    app = Doorman()
    server = serve(app, max_opening=1, graceful_timeout=0.1)
    with begin(server, "/1"), RawClient(server.port) as kept:
        assert app.asked.next() == "/1"
        kept.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.read_answer().status == 204
        kept.send(handshake("/2", "X-Forwarded-For: 192.0.2.1") + text("early"))
        wait_until(lambda: waiting(server) == 1)
        kept.send(text("and later"))
        app.answer(server, "/1")
        assert app.asked.next() == "/2"
        app.answer(server, "/2")
        assert kept.read_answer().status == 101
        assert [kept.read_text(), kept.read_text()] == ["early", "and later"]
        assert app.clients["/2"] == ("192.0.2.1", 0)
        kept.send(close())
        assert kept.read_close()[0] == 1000


def test_fault_in_one_that_waits_does_not_keep_the_others(serve: Serve) -> None:
    server = serve(Doorman(), max_opening=1)
    started = Recorder()

    class Broken:
        def begin_opening(self) -> None:
            raise RuntimeError("on order of the test")

    class Good:
        def begin_opening(self) -> None:
            started.put("good")

    def play() -> None:
        openings = server.server.worker.admission.openings
        place = object()
        openings.begin(place)
        for waiter in (Broken(), Good()):
            openings.wait(waiter)
        openings.end(place)

    server.call(play)
    assert started.next() == "good"
    wait_until(lambda: bool(server.errors))
    server.errors.clear()


@pytest.mark.slow
def test_handshakes_that_wait_cost_what_the_formula_says(start: Start) -> None:
    """Heads of full size, of subprotocols with short names, and clients that send much before they are answered."""
    process = start("tests.runner.apps:undecided", "--no-access-log", "--max-opening", "1")
    count, floods, terms = 30, 3, waiting_terms(Config())
    names = ",".join(map("".join, islice(product(ascii_letters, repeat=3), 15_000)))
    with ExitStack() as open_ones:
        clients = [open_ones.enter_context(RawClient(process.port)) for _ in range(count + 1)]
        clients[0].send(handshake("/0"))
        process.wait_stdout("undecided")
        memory = Memory(process)
        for number, client in enumerate(clients[1:]):
            client.send(handshake(f"/{number}", f"Sec-WebSocket-Protocol: {names}"))
        for client in clients[1 : floods + 1]:
            push(client, text("x" * 100), 8 * MIB)
        most = count * (terms["connection"] + terms["head"]) + floods * terms["early"]
        assert memory.growth() <= most + SLACK_BYTES
