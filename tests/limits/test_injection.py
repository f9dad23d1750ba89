"""Nothing that a client or an application sends splits a response, a header or a log line.

The log is what a real process writes to its standard error: one line a record, in printable ASCII, and a traceback of
the application indented below its line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from urllib.parse import quote

import pytest

from tests.conftest import Serve
from tests.limits.hostile import NASTY, app, raw
from tests.raw import RawClient, close, frame, handshake
from tests.server_process import ServerProcess, Start

APP = "tests.limits.hostile:app"
RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR)\s+(.*)")
MOST_CHARACTERS = 5000
"""Of a log line: two values at their limit, and what stands around them."""

payloads = pytest.mark.parametrize("which", NASTY)
# One that cannot be encoded, and one that is cut, could hide what becomes of the others.
messages_of_a_lifespan = pytest.mark.parametrize(
    "names",
    ["+".join(which for which in NASTY if which not in ("surrogate", "long")), "surrogate", "long"],
    ids=["all-others", "surrogate", "long"],
)
# The event loop has no part in what is logged; the log of JSON, to which all is sent, is written on both.
on_one_loop = pytest.mark.parametrize("loop_name", ["asyncio"])


def records(process: ServerProcess) -> list[str]:
    """Stop a server and give the messages of all records, having checked every line that it ever wrote."""
    process.terminate()
    assert process.wait() == 0
    process.rest_of_stderr()
    assert process.stdout == []
    messages: list[str] = []
    for line in process.stderr:
        assert re.fullmatch(r"[ -~]*", line), f"not printable ASCII: {line!r}"
        assert len(line) < MOST_CHARACTERS, "a line without a bound"
        found = RECORD.fullmatch(line)
        if found is None:
            assert line.startswith("    ") or not line, f"neither a record nor below one: {line!r}"
            assert messages, line
            assert messages[-1].startswith("application raised in "), f"{line!r} below {messages[-1]!r}"
        else:
            assert found[2] != "forged"
            messages.append(found[2])
    assert messages[0].startswith("listening on "), messages
    assert messages[-2:] == ["stopping", "stopped"]
    return messages[1:-2]


def request(process: ServerProcess, data: bytes) -> int:
    """Send bytes that hold one handshake or request, leave, and give how many records that is worth."""
    with RawClient(process.port) as client:
        client.send(data)
        status = client.read_answer().status
        if status == 101:
            client.send(close())
        client.read_to_end()
        assert status in (101, 200, 400, 403, 405, 426, 431, 500, 501), status
        return 2 if status == 101 else 1


def in_line(before: bytes, after: bytes) -> Callable[[bytes], bytes]:
    return lambda payload: before + payload + after + b"\r\nHost: x\r\nConnection: close\r\n\r\n"


def in_field(name: str) -> Callable[[bytes], bytes]:
    return lambda payload: handshake()[:-2] + name.encode() + b": " + payload + b"\r\n\r\n"


def in_escapes(before: str) -> Callable[[bytes], bytes]:
    return lambda payload: handshake(before + quote(payload, safe=""))


PLACES: dict[str, Callable[[bytes], bytes]] = {
    "target": in_line(b"GET /", b" HTTP/1.1"),
    "query": in_line(b"GET /?a=", b" HTTP/1.1"),
    "method": in_line(b"G", b" / HTTP/1.1"),
    "first-byte": in_line(b"", b" / HTTP/1.1"),
    "version": in_line(b"GET / HTTP/", b""),
    "field-name": lambda payload: handshake()[:-2] + payload + b": v\r\n\r\n",
    "user-agent": in_field("User-Agent"),
    "any-field": in_field("X-A"),
    "origin": in_field("Origin"),
    "subprotocol": in_field("Sec-WebSocket-Protocol"),
    "extension": in_field("Sec-WebSocket-Extensions"),
    "key": in_field("Sec-WebSocket-Key"),
    "websocket-version": in_field("Sec-WebSocket-Version"),
    "second-host": in_field("Host"),
    "length": in_field("Content-Length"),
    "coding": in_field("Transfer-Encoding"),
}


@on_one_loop
@pytest.mark.parametrize("place", PLACES)
def test_request_makes_one_line_in_the_log(start: Start, place: str) -> None:
    """And the opening and the end of a WebSocket one each."""
    process = start(APP, "--allowed-origins", "https://example.com", "--lifespan", "off")
    sent = [PLACES[place](raw(payload)) for payload in NASTY.values()]
    expected = 0
    for data in sent:
        expected += request(process, data)
    assert len(lines := records(process)) == expected, lines


@pytest.mark.promise
def test_request_makes_one_object_in_a_log_of_json(start: Start) -> None:
    """Each line is an object in printable ASCII; nothing that was sent adds a line or a key."""
    process = start(APP, "--allowed-origins", "https://example.com", "--lifespan", "off", "--log-format", "json")
    sent = [place(raw(payload)) for place in PLACES.values() for payload in NASTY.values()]
    expected = sum(request(process, data) for data in sent)
    process.terminate()
    assert process.wait() == 0
    process.rest_of_stderr()
    for line in process.stderr:
        assert re.fullmatch(r"[ -~]*", line), f"not printable ASCII: {line!r}"
        assert len(line) < 2 * MOST_CHARACTERS, "a line without a bound"
    lines = [json.loads(line) for line in process.stderr]
    known = {"http", "websocket-open", "websocket-end", "websocket-refused", "rejected"}
    left_out = sum(int(found[1]) for line in lines if (found := re.match(r"left out (\d+) lines", line["message"])))
    assert sum(line.get("event") in known for line in lines) + left_out == expected


@on_one_loop
def test_escaped_path_and_query_make_one_line_each_in_the_log(start: Start) -> None:
    """What an escape stands for is in `scope["path"]`, and not in the log (CVE-2020-7694)."""
    process = start(APP)
    expected = 0
    for payload in NASTY.values():
        cut = raw(payload)[:2000]
        for before in ("/echo/", "/?"):
            expected += request(process, in_escapes(before)(cut))
            expected += request(process, b"GET %s%s HTTP/1.0\r\n\r\n" % (before.encode(), quote(cut, safe="").encode()))
    assert len(lines := records(process)) == expected, lines


@on_one_loop
def test_close_reason_of_a_client_makes_one_line_in_the_log(start: Start) -> None:
    process = start(APP)
    expected = 0
    for payload in NASTY.values():
        with RawClient(process.port) as client:
            client.open_websocket("/echo")
            client.send(frame(8, b"\x0f\xa0" + raw(payload)[:100]))
            code = client.read_close()[0]
            client.read_to_end()
        expected += 3 if code == 1007 else 2
    assert len(lines := records(process)) == expected, lines
    assert any('"\\x1b[2J' in line for line in lines), "the reasons are logged at all"


@on_one_loop
@pytest.mark.parametrize("where", ["close-reason", "accept-header", "subprotocol", "denial-header", "exception"])
def test_websocket_of_an_application_that_misbehaves_makes_no_line_but_its_own(start: Start, where: str) -> None:
    process = start(APP)
    for which in NASTY:
        request(process, handshake(f"/{where}/{which}", "Sec-WebSocket-Protocol: chat"))
    lines = records(process)
    path = re.compile(rf'.*"?WebSocket /{where}/[a-z0-9-]+" |application raised in websocket /{where}/')
    assert len(lines) >= len(NASTY)
    assert [line for line in lines if not path.match(line)] == []


@on_one_loop
@pytest.mark.parametrize("where", ["header-name", "header-value", "early-hint", "trailer", "exception", "bad-kind"])
def test_response_of_an_application_that_misbehaves_makes_no_line_but_its_own(start: Start, where: str) -> None:
    process = start(APP)
    for which in NASTY:
        with RawClient(process.port) as client:
            client.send(f"GET /{where}/{which} HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n".encode())
            client.half_close()
            client.read_to_end()
    lines = records(process)
    path = re.compile(rf'.*"GET /{where}/[a-z0-9-]+ HTTP/1.1" |application raised in GET /{where}/')
    assert len(lines) >= len(NASTY)
    assert [line for line in lines if not path.match(line)] == []


@on_one_loop
@messages_of_a_lifespan
def test_message_of_a_failed_startup_cannot_pass_for_a_record(start: Start, names: str) -> None:
    """Its own lines stay lines, as it is often a traceback, but each of them is indented and printable."""
    process = start(APP, environ={"HOSTILE_LIFESPAN": f"startup/{names}"}, wait_ready=False)
    assert process.wait() == 3
    lines = process.rest_of_stderr()
    assert re.fullmatch(r"asgiws: application startup failed: [ -~]{0,3000}", lines[0])
    assert [line for line in lines[1:] if not re.fullmatch(r"    [ -~]{0,3000}", line)] == []


@on_one_loop
@pytest.mark.parametrize("event", ["shutdown", "raise"])
@messages_of_a_lifespan
def test_lifespan_that_fails_otherwise_is_one_record(start: Start, event: str, names: str) -> None:
    process = start(APP, environ={"HOSTILE_LIFESPAN": f"{event}/{names}"}, wait_ready=False)
    process.wait_ready()
    process.terminate()
    assert process.wait() == 0
    process.rest_of_stderr()
    for line in process.stderr:
        assert re.fullmatch(r"[ -~]*", line)
        assert len(line) < MOST_CHARACTERS
        assert RECORD.fullmatch(line) or line.startswith("    "), line
    said = [found[2] for line in process.stderr if (found := RECORD.fullmatch(line)) and found[1] == "ERROR"]
    assert len(said) == 1


# ---- what the peer of such an application sees


def fields(data: bytes) -> list[bytes]:
    """Give the names of all fields in all heads and trailers that a client could see in `data`, however it splits."""
    lines = re.split(rb"[\r\n\x0b\x0c\x1c\x1d\x1e\0]+", data)
    return [line.partition(b":")[0].lower() for line in lines if b":" in line]


@pytest.mark.parametrize("where", ["header-name", "header-value", "early-hint", "trailer"])
@pytest.mark.parametrize("injected", ["cr", "lf", "crlf", "nul"])
def test_response_is_not_split(serve: Serve, where: str, injected: str) -> None:
    """RFC 9110 §5.5: "Field values containing CR, LF, or NUL characters are invalid and dangerous"."""
    server = serve(app, lifespan="off")
    with RawClient(server.port) as client:
        client.send(f"GET /{where}/{injected} HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n".encode())
        client.half_close()
        data = client.read_to_end()
    assert b"forged" not in data
    if where == "trailer":
        assert not data.endswith(b"0\r\n\r\n"), "a response without the trailers it has promised looks whole"
    else:
        assert data.startswith(b"HTTP/1.1 500 ")
    assert set(fields(data)) <= {
        b"date", b"server", b"content-type", b"content-length", b"connection", b"transfer-encoding",
    }  # fmt: skip


@pytest.mark.parametrize("where", ["accept-header", "denial-header", "subprotocol"])
@pytest.mark.parametrize("injected", ["cr", "lf", "crlf", "nul"])
def test_answer_to_a_handshake_is_not_split(serve: Serve, where: str, injected: str) -> None:
    server = serve(app, lifespan="off")
    with RawClient(server.port) as client:
        client.send(handshake(f"/{where}/{injected}", "Sec-WebSocket-Protocol: chat"))
        data = client.read_to_end()
    assert data.startswith(b"HTTP/1.1 500 ")
    assert b"forged" not in data


@pytest.mark.parametrize("where", ["header-value", "early-hint", "trailer"])
@pytest.mark.parametrize("which", ["escape", "delete", "separators"])
def test_other_control_characters_do_not_reach_a_client(serve: Serve, where: str, which: str) -> None:
    """RFC 9110 §5.5: "Field values containing other CTL characters are also invalid". Some clients split at them."""
    server = serve(app, lifespan="off")
    with RawClient(server.port) as client:
        client.send(f"GET /{where}/{which} HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n".encode())
        client.half_close()
        assert b"forged" not in client.read_to_end()


@payloads
def test_close_reason_of_an_application_is_only_a_close_reason(serve: Serve, which: str) -> None:
    """RFC 6455 §5.5.1: UTF-8, any characters; what is no UTF-8 is the application's fault."""
    server = serve(app, lifespan="off")
    with RawClient(server.port) as client:
        client.open_websocket(f"/close-reason/{which}")
        said = client.read_close()
        client.send(close())
        assert client.read_to_end() == b""
    assert said == ((1011, "internal error") if which == "surrogate" else (4000, NASTY[which][:60]))


@pytest.mark.parametrize("which", [which for which in NASTY if which not in ("crlf", "long")])  # which are no faults
def test_rejection_is_printable(serve: Serve, which: str) -> None:
    """The answer repeats what was wrong; nothing that a terminal or a browser would act on."""
    server = serve(app, lifespan="off")
    with RawClient(server.port) as client:
        client.send(in_field("Sec-WebSocket-Protocol")(raw(NASTY[which])))
        answer = client.read_answer()
    assert answer.status == 400
    assert re.fullmatch(rb"[ -~]+\n", answer.body)
