"""The end of a server process: in order when there is time, and always."""

from __future__ import annotations

import contextlib
import signal

import pytest

from tests.raw import RawClient, close, handshake, text
from tests.server_process import APPS, ServerProcess, Start, assert_no_traceback

STOP_SIGNALS = [signal.SIGTERM, signal.SIGINT]


def started_lines(process: ServerProcess) -> list[str]:
    """What the application printed between its startup and the end of the process."""
    process.rest_of_stdout()
    assert process.stdout[0] == "lifespan.startup"
    return process.stdout[1:]


def open_websocket(process: ServerProcess) -> RawClient:
    client = RawClient(process.port)
    client.open_websocket()
    return client


@pytest.mark.promise
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_first_signal_stops_in_order(start: Start, number: signal.Signals) -> None:
    """Listening ends, open work is finished, applications end, then comes lifespan shutdown (design: server)."""
    process = start(f"{APPS}:echo", "--graceful-timeout", "600")
    with RawClient(process.port) as slow, RawClient(process.port) as idle, open_websocket(process) as websocket:
        idle.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.read_answer().header(b"connection") is None
        slow.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nab")
        process.wait_stdout("http part ab")
        websocket.send(text("hello"))
        assert websocket.read_text() == "hello"

        process.signal(number)
        assert websocket.read_close() == (1012, "service restart")
        assert idle.read_to_end() == b""
        with pytest.raises(ConnectionRefusedError):
            RawClient(process.port)
        websocket.send(close(1012))
        assert websocket.read_to_end() == b""
        process.wait_stdout("websocket.disconnect")
        slow.send(b"cd")
        answer = slow.read_answer()
        assert (answer.status, answer.body) == (200, b"abcd")
        assert answer.header(b"connection") == b"close"
        assert slow.read_to_end() == b""
    assert process.wait() == 0
    assert started_lines(process) == [
        "http part ", "http answered ",
        "http part ab", "websocket.disconnect 1012 service restart", "http part cd", "http answered abcd",
        "websocket cleaned up", "lifespan.shutdown",
    ]  # fmt: skip
    assert_no_traceback(process)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_idle_server_stops_at_once(start: Start, number: signal.Signals) -> None:
    """Nobody is waited for when nobody is there."""
    process = start(f"{APPS}:echo", "--graceful-timeout", "600")
    process.signal(number)
    assert process.wait() == 0
    assert started_lines(process) == ["lifespan.shutdown"]
    assert_no_traceback(process)


def test_connection_without_a_request_does_not_delay_the_stop(start: Start) -> None:
    """A connection that has sent nothing, or half a head, is closed at once."""
    process = start(f"{APPS}:echo", "--graceful-timeout", "600", "--head-timeout", "600")
    with RawClient(process.port) as silent, RawClient(process.port) as begun, RawClient(process.port) as served:
        begun.send(b"GET / HT")
        served.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        # Its answer says that the connections before it were accepted
        assert served.read_answer().status == 200
        process.terminate()
        assert silent.read_to_end() == b""
        assert begun.read_to_end() == b""
        assert process.wait() == 0


@pytest.mark.promise
def test_graceful_timeout_cancels_applications_before_lifespan_shutdown(start: Start) -> None:
    """An application that ignores its disconnect is cancelled after --graceful-timeout, and the exit code is 0."""
    process = start(f"{APPS}:deaf", "--graceful-timeout", "0.3", "--close-timeout", "0.1")
    with open_websocket(process) as websocket, RawClient(process.port) as waiting:
        process.wait_stdout("deaf to websocket")
        waiting.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        process.wait_stdout("deaf to http")
        process.signal(signal.SIGTERM)
        assert websocket.read_close() == (1012, "service restart")
        assert websocket.read_to_end() == b""
        assert waiting.read_to_end() == b""
        assert process.wait() == 0
    lines = started_lines(process)[2:]
    assert sorted(lines[:2]) == ["cancelled http", "cancelled websocket"]
    assert lines[2:] == ["lifespan.shutdown"]
    assert_no_traceback(process)


PATHS = r"/slow \(2\), /%0A, /$"


def test_what_does_not_end_is_named_by_its_path(start: Start) -> None:
    """The most frequent path first, each with how often it is there."""
    process = start(f"{APPS}:deaf", "--graceful-timeout", "0.3")
    with contextlib.ExitStack() as stack:
        for path in (b"/slow", b"/%0A", b"/slow"):
            client = stack.enter_context(RawClient(process.port))
            client.send(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
            process.wait_stdout("deaf to http")
        stack.enter_context(open_websocket(process))
        process.wait_stdout("deaf to websocket")
        process.signal(signal.SIGTERM)
        process.wait_stderr("3 requests and 1 WebSocket did not end within 0.3 s, ending now: " + PATHS)
        assert process.wait() == 0


def test_stop_that_waits_says_for_what(start: Start) -> None:
    process = start(f"{APPS}:deaf", "--graceful-timeout", "600")
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(open_websocket(process))
            process.wait_stdout("deaf to websocket")
        client = stack.enter_context(RawClient(process.port))
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        process.wait_stdout("deaf to http")
        process.signal(signal.SIGTERM)
        process.wait_stderr("INFO +waiting for 1 request and 2 WebSockets, up to 600 s; signal again to stop now$")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0


@pytest.mark.promise
@pytest.mark.parametrize("second", STOP_SIGNALS)
def test_second_signal_waits_for_nobody(start: Start, second: signal.Signals) -> None:
    """A second signal ends the wait for applications at once; they are cancelled, and shut down in order."""
    process = start(f"{APPS}:deaf", "--graceful-timeout", "600")
    with open_websocket(process) as websocket:
        process.wait_stdout("deaf to websocket")
        process.terminate()
        assert websocket.read_close() == (1012, "service restart")
        process.signal(second)
        assert process.wait() == 0
    assert started_lines(process)[1:] == ["cancelled websocket", "lifespan.shutdown"]
    assert_no_traceback(process)


@pytest.mark.slow
def test_application_that_swallows_its_cancellation_does_not_keep_the_process(start: Start) -> None:
    """It is not waited for, and one line says so."""
    process = start(f"{APPS}:immortal", "--graceful-timeout", "0.1")
    with open_websocket(process):
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    lines = started_lines(process)
    assert "swallowed" in lines
    assert "lifespan.shutdown" in lines
    assert_no_traceback(process)
    assert [line for line in process.stderr if "1 WebSocket did not end within 0.1 s, ending now: /" in line]
    assert [line for line in process.stderr if "1 application did not end within 1 s of being cancelled" in line]


@pytest.mark.slow
@pytest.mark.parametrize("app", ["blocking", "spinning"])
def test_second_signal_ends_a_process_whose_loop_is_blocked(start: Start, app: str) -> None:
    """The loop cannot take the signal, so a thread ends the process; it did not end well: exit code 1."""
    process = start(f"{APPS}:{app}", "--graceful-timeout", "600")
    with RawClient(process.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        process.wait_stdout(app)
        # Two kinds, because two of one kind may arrive as one
        process.signal(signal.SIGTERM)
        process.signal(signal.SIGINT)
        assert process.wait() == 1
    process.wait_stderr(rf"CRITICAL the application blocks the event loop in {app} \(.*apps.py:[0-9]+\)")
    process.wait_stderr(rf"apps.py\", line [0-9]+ in {app}")  # of the stack, as of a worker that hangs
    assert_no_traceback(process)


@pytest.mark.slow
def test_worker_whose_loop_is_blocked_shows_where_when_it_is_stopped(start: Start) -> None:
    """It hears neither the first order nor the second."""
    process = start(f"{APPS}:blocking", "--graceful-timeout", "600", "--workers", "1")
    with RawClient(process.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        process.wait_stdout("blocking")
        process.terminate()
        process.signal(signal.SIGTERM)
        process.wait_stderr("worker 1 .* has not exited in time; aborting it")
        process.wait_stderr(r"apps.py\", line [0-9]+ in blocking")
        assert process.wait() == 1
    assert not [line for line in process.stderr if "killing it" in line]


@pytest.mark.promise
@pytest.mark.slow
def test_one_signal_ends_a_process_whose_loop_is_blocked(start: Start) -> None:
    """What sends SIGTERM once, and waits, sees the end too."""
    process = start(f"{APPS}:blocking", "--graceful-timeout", "0.1")
    with RawClient(process.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        process.wait_stdout("blocking")
        process.signal(signal.SIGTERM)
        assert process.wait() == 1
    process.wait_stderr("CRITICAL the application blocks the event loop")


KEEPERS = {
    "threaded": "1 thread of the application: counter",
    "busy_executor": "1 thread of the application: asgiws_0",
    "daemon_executor": "1 thread of the application: kernel_0",
    "exit_handler_hangs": "the exit handlers of the application, which are",
}


@pytest.mark.parametrize("app", KEEPERS)
@pytest.mark.parametrize("options", [(), ("--workers", "1"), ("--reload",)], ids=["alone", "worker", "reload"])
def test_thread_of_the_application_does_not_keep_the_process(start: Start, app: str, options: tuple[str, ...]) -> None:
    """It is named in one line, what was printed is not lost, and the exit code is that of a stop in order."""
    process = start(f"{APPS}:{app}", "--graceful-timeout", "600", *options, environ={"PYTHONUNBUFFERED": ""})
    process.signal(signal.SIGTERM)
    process.wait_stderr(rf"not waiting for {KEEPERS[app]} in _sleep_for_ever \(.*apps.py:[0-9]+\)")
    assert process.wait() == 0
    assert started_lines(process) == ["lifespan.shutdown"] + (["not flushed"] if app == "threaded" else [])
    assert_no_traceback(process)
    assert not [line for line in process.stderr if "has not exited in time" in line]


@pytest.mark.slow
@pytest.mark.parametrize("app", ["immortal", "shutdown_immortal"])
@pytest.mark.parametrize("options", [(), ("--workers", "1")], ids=["alone", "worker"])
def test_second_signal_with_an_application_that_swallows_its_cancellation(
    start: Start, app: str, options: tuple[str, ...]
) -> None:
    """Nothing blocks the event loop, so the stop goes on to its end, in order."""
    process = start(f"{APPS}:{app}", "--graceful-timeout", "600", *options)
    with open_websocket(process) if app == "immortal" else contextlib.nullcontext():
        process.terminate()
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    assert_no_traceback(process)
    assert not [line for line in process.stderr if "blocks" in line or "has not exited in time" in line]


@pytest.mark.slow
def test_asynchronous_generator_that_does_not_end_does_not_keep_the_process(start: Start) -> None:
    """Those that are open are closed with the loop, and waited for a second."""
    process = start(f"{APPS}:generator_hangs")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert started_lines(process) == ["lifespan.shutdown", "generator closed"]
    assert_no_traceback(process)


def test_lifespan_shutdown_that_hangs_is_cancelled(start: Start) -> None:
    """It has --graceful-timeout too."""
    process = start(f"{APPS}:shutdown_hangs", "--graceful-timeout", "0.2")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    process.rest_of_stdout()
    assert process.stdout == ["lifespan.shutdown", "shutdown ended"]
    process.wait_stderr("did not answer lifespan.shutdown within 0.2 s")
    assert_no_traceback(process)


def test_second_signal_ends_a_lifespan_shutdown_that_hangs(start: Start) -> None:
    """The second signal ends this wait as well, in order."""
    process = start(f"{APPS}:shutdown_hangs", "--graceful-timeout", "600")
    process.terminate()
    process.wait_stdout("lifespan.shutdown")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    process.rest_of_stdout()
    assert process.stdout == ["lifespan.shutdown", "shutdown ended"]
    assert_no_traceback(process)


@pytest.mark.slow
def test_lifespan_shutdown_that_swallows_its_cancellation_does_not_keep_the_process(start: Start) -> None:
    process = start(f"{APPS}:shutdown_immortal", "--graceful-timeout", "0.1")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert_no_traceback(process)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signal_during_startup_stops(start: Start, number: signal.Signals) -> None:
    """A startup that hangs, as one that waits for its database, is cancelled: exit code 0, no traceback."""
    process = start(f"{APPS}:startup_hangs", wait_ready=False)
    process.wait_stdout("lifespan.startup")
    process.signal(number)
    assert process.wait() == 0
    process.rest_of_stdout()
    assert process.stdout == ["lifespan.startup", "startup ended"]
    assert_no_traceback(process)


@pytest.mark.slow
def test_startup_that_swallows_its_cancellation_does_not_keep_the_process(start: Start) -> None:
    process = start(f"{APPS}:startup_immortal", wait_ready=False)
    process.wait_stdout("lifespan.startup")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert_no_traceback(process)


def test_handshake_that_was_not_answered_is_refused_with_503(start: Start) -> None:
    """A handshake in progress when the server stops gets an HTTP answer, and is told to come back."""
    process = start(f"{APPS}:undecided", "--graceful-timeout", "600")
    with RawClient(process.port) as client:
        client.send(handshake())
        process.wait_stdout("undecided")
        process.terminate()
        answer = client.read_answer()
        assert (answer.status, int(answer.header(b"retry-after") or 0) in range(1, 11)) == (503, True)
        assert process.wait() == 0
