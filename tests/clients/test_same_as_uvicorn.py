"""One FastAPI application under uvicorn and under this server: the same requests and dialogues, the same answers.

Both are asked in bytes, so that no client evens out what they do. Where they are meant to differ, the difference
stands in a table with its reason; a difference that is not there fails, and so does one that is there and is gone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pytest
from fastapi import FastAPI

from tests.apps import Recorder
from tests.clients.cases import DIALOGUES, REQUESTS, Dialogue, request
from tests.clients.fastapi_app import make_app
from tests.clients.uvicorn_server import serve_with_uvicorn
from tests.conftest import Serve
from tests.raw import Answer, RawClient, frame, handshake

Outcome = dict[str, Any]

# Of each server's own; the others have to be equal, in name, number and value.
OWN_HEADERS = (b"date", b"server")
UNEQUAL: Final = "unequal"
"""In the table: the two are not equal, and what exactly they are does not matter."""


@dataclass(frozen=True)
class Difference:
    """What differs on purpose: in which cases, which parts of their outcomes, ours before theirs, and how it is said.

    The reason is shown to users, in deploy/from-uvicorn.md.
    """

    cases: tuple[str, ...]
    parts: Mapping[str, tuple[object, object] | str]
    reason: str


NO_TYPE = [(b"connection", b"close"), (b"content-length", b"0")]
TYPED = [*NO_TYPE, (b"content-type", b"text/plain; charset=utf-8")]
TYPED_21 = [(b"connection", b"close"), (b"content-length", b"21"), TYPED[2]]
NO_CLOSE = {"closed": (True, False), "code": (1011, None), "reason": ("internal error", None)}

DIFFERENCES: tuple[Difference, ...] = (
    # ---- HTTP
    Difference(
        ("unknown-method",),
        {"status": (405, 400), "fields": UNEQUAL, "body": UNEQUAL, "stays": (True, False)},
        "Any method reaches the application (RFC 9110 §9.1); uvicorn answers with 400 to those that httptools lacks.",
    ),
    Difference(
        ("where-lower-case-method",),
        {"status": (200, 400), "fields": UNEQUAL, "body": UNEQUAL, "stays": (True, False)},
        "A method in lower case is accepted; uvicorn answers with 400.",
    ),
    Difference(
        ("put-expecting",),
        {"status": (200, 100), "fields": UNEQUAL, "body": UNEQUAL},
        "A request with `Expect: 100-continue` and no body gets no 100 before its answer (RFC 9110 §10.1.1).",
    ),
    Difference(
        ("headers-twice",),
        {"fields": UNEQUAL, "body": UNEQUAL},
        "White space after the value of a field is removed (RFC 9112 §5.1).",
    ),
    Difference(
        ("http-exception",),
        {"stays": (True, False)},
        "An application that raises after a complete response does not cost the client its connection.",
    ),
    Difference(
        ("http-1.0-keep-alive",),
        {"fields": UNEQUAL, "stays": (True, False)},
        "An HTTP/1.0 client that asks for keep-alive gets it (RFC 9112 §9.3).",
    ),
    Difference(
        ("http-1.0-stream",),
        {"fields": UNEQUAL},
        "An HTTP/1.0 client gets no chunks (RFC 9112 §6.1); the end of the connection ends the body.",
    ),
    # ---- WebSocket: handshakes that are refused
    Difference(
        ("path-invalid", "dependency-raises", "refused", "missing", "http-route"),
        {"fields": (NO_TYPE, TYPED)},
        "A 403 of a refused handshake, which has no body, has no content type.",
    ),
    Difference(
        ("returns-early", "raises-early"),
        {"fields": (NO_TYPE, TYPED_21), "body": (b"", b"Internal Server Error")},
        "The 500 of a handshake whose application raises or returns has no body.",
    ),
    Difference(
        ("subprotocol-not-offered",),
        {"status": (500, 101), "fields": UNEQUAL, "messages": ([], [(0x81, b"[]")]), "closed": (False, True),
         "code": (None, 1000), "reason": (None, "")},
        "A subprotocol that the client did not offer raises an error in the application (RFC 6455 §4.2.2); uvicorn "
        "sends it, and browsers fail.",
    ),
    # ---- WebSocket: what is delivered
    Difference(
        ("echo-burst",),
        {"messages": ([(0x81, b"a"), (0x82, b"b"), (0x81, b"")], []), "app_codes": ([1000], [1006]),
         "app_reasons": (["bye"], [""])},
        "Messages that arrive in one packet with a Close are delivered before it, and its code is reported.",
    ),
    Difference(
        ("violation-behind-a-message",),
        {"messages": ([(0x81, b"a")], [])},
        "The same for messages before a protocol violation.",
    ),
    # ---- WebSocket: how it ends
    Difference(
        ("echo-burst", "close-1000", "close-4999"),
        {"reason": UNEQUAL},
        "The reply to a Close has its code (RFC 6455 §5.5.1) and not its reason.",
    ),
    Difference(
        ("vanish", "vanish-at-once"),
        {"app_codes": ([1006], [1005])},
        "A lost connection is 1006 to the application (RFC 6455 §7.1.5); uvicorn reports 1005.",
    ),
    Difference(
        ("close-1005", "close-bad-length", "unmasked", "reserved-bit", "reserved-opcode", "bad-utf-8", "too-big",
         "violation-behind-a-message"),
        {"reason": UNEQUAL, "app_reasons": UNEQUAL},
        "The reason of a Close after a violation has other words, and the application gets it too.",
    ),
    Difference(
        ("raises", "json-invalid", "application-closes-1006", "application-closes-long-reason"),
        NO_CLOSE,
        "An application that raises closes with 1011 (RFC 6455 §7.4.1); uvicorn drops the TCP connection.",
    ),
    Difference(
        ("returns",),
        {"closed": (True, False), "code": (1000, None), "reason": ("", None)},
        "An application that returns closes with 1000 (RFC 6455 §7.1.2); uvicorn drops the TCP connection.",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """One of the two servers, and the application in it."""

    port: int
    app: FastAPI


@pytest.fixture(scope="module")
def uvicorn_target() -> Iterator[Target]:
    app = make_app()
    with serve_with_uvicorn(app) as port:
        yield Target(port, app)


@pytest.fixture
def our_target(serve: Serve) -> Target:
    app = make_app()
    return Target(serve(app).port, app)


def compare(case: str, ours: Outcome, theirs: Outcome) -> None:
    """Assert that two outcomes are equal but for what the table says, and unequal where it says so."""
    expected = {part: pair for row in DIFFERENCES if case in row.cases for part, pair in row.parts.items()}
    found = {part: (ours[part], theirs[part]) for part in ours if ours[part] != theirs[part]}
    assert {part: UNEQUAL if expected.get(part) == UNEQUAL else pair for part, pair in found.items()} == expected


def fields_of(answer: Answer) -> list[tuple[bytes, bytes]]:
    return sorted(field for field in answer.headers if field[0] not in OWN_HEADERS)


def test_every_row_of_the_table_is_about_cases_that_there_are() -> None:
    """A case that was renamed must not leave its difference behind."""
    named = {case for row in DIFFERENCES for case in row.cases}
    assert named <= {*REQUESTS, *DIALOGUES}
    assert not REQUESTS.keys() & DIALOGUES.keys()


def ask(target: Target, data: bytes) -> Outcome:
    """Send one request; its answer, and whether the next one on the connection is answered."""
    outcome: Outcome = {}
    with RawClient(target.port) as client:
        client.send(data)
        try:
            answer = client.read_answer(head_only=data.startswith(b"HEAD "))
            outcome |= {"status": answer.status, "fields": fields_of(answer), "body": answer.body, "stays": True}
            client.send(request("GET /items/1"))
            client.read_answer()
        except (EOFError, ConnectionResetError, BrokenPipeError):
            outcome = {"status": 0, "fields": [], "body": b""} | outcome | {"stays": False}
    return outcome


@pytest.mark.parametrize("case", REQUESTS)
def test_request_is_answered_as_by_uvicorn(our_target: Target, uvicorn_target: Target, case: str) -> None:
    """Status, fields, body, and whether the connection stays."""
    compare(case, ask(our_target, REQUESTS[case]), ask(uvicorn_target, REQUESTS[case]))


def converse(target: Target, dialogue: Dialogue) -> Outcome:
    """Hold a dialogue; the handshake's answer, the messages and the Close, and what the application wrote down."""
    target.app.state.ends = ends = Recorder()
    frames: list[tuple[int, bytes]] = []
    with RawClient(target.port) as client:
        client.send(handshake(dialogue.path, *dialogue.headers))
        answer = client.read_answer()
        if answer.status == 101:
            try:
                follow(client, dialogue.steps, frames)
            except (EOFError, ConnectionResetError):
                frames.append((0, b""))
    closes = [payload for first, payload in frames if first == 0x88]
    seen = [ends.next() for _ in range(dialogue.ends)]
    return {
        "status": answer.status, "fields": fields_of(answer), "body": answer.body,
        "messages": [each for each in frames if each[0] not in (0, 0x88)],
        "code": struct.unpack("!H", closes[0][:2])[0] if closes and closes[0] else None,
        "reason": closes[0][2:].decode() if closes else None,
        "closed": bool(closes),
        "app_codes": [each[0] for each in seen], "app_reasons": [each[1] for each in seen],
    }  # fmt: skip


def follow(client: RawClient, steps: tuple[bytes | int | None, ...], frames: list[tuple[int, bytes]]) -> None:
    """Take the steps of a dialogue, and then read up to the server's Close."""
    for step in steps:
        if step is None:
            return
        if isinstance(step, bytes):
            client.send(step)
        else:
            frames += [client.read_frame() for _ in range(step)]
    while not frames or frames[-1][0] != 0x88:
        frames.append(client.read_frame())
    client.send(frame(8, frames[-1][1]))  # its answer, or one too many that nobody reads


@pytest.mark.parametrize("case", DIALOGUES)
def test_dialogue_is_held_as_by_uvicorn(our_target: Target, uvicorn_target: Target, case: str) -> None:
    """Handshake, messages, Close, and what the application reads of the end."""
    dialogue = DIALOGUES[case]
    compare(case, converse(our_target, dialogue), converse(uvicorn_target, dialogue))


# ---- below a path

ROOT_PATH = "/api/v1"
BELOW = ("where-am-i", "where-escaped", "get", "trailing-slash", "nowhere", "sub-application-http", "openapi")
TALKS_BELOW = ("where", "sub-application", "path-and-query")


@pytest.fixture(scope="module")
def uvicorn_below() -> Iterator[Target]:
    app = make_app()
    with serve_with_uvicorn(app, root_path=ROOT_PATH) as port:
        yield Target(port, app)


def test_root_path_is_the_same_for_the_application(serve: Serve, uvicorn_below: Target) -> None:
    """ASGI root_path: a proxy takes the prefix off, and both servers tell the application of it."""
    app = make_app()
    ours = Target(serve(app, root_path=ROOT_PATH).port, app)
    for case in BELOW:
        answer = ask(ours, REQUESTS[case])
        assert answer == ask(uvicorn_below, REQUESTS[case]), case
        assert answer["status"] == (404 if case == "nowhere" else 307 if case == "trailing-slash" else 200)
    for case in TALKS_BELOW:
        assert converse(ours, DIALOGUES[case]) == converse(uvicorn_below, DIALOGUES[case]), case
