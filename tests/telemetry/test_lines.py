"""What a line looks like: text and JSON of one record, harmless whatever a client or an application put into it."""

from __future__ import annotations

import ast
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import asgiws
from asgiws.protocol import errors
from asgiws.protocol.errors import Violation
from asgiws.telemetry import access_log as access
from asgiws.telemetry.formats import JSONFormatter, TextFormatter
from asgiws.telemetry.logs import ACCESS, LOG, LineLimit

CLIENT = ("127.0.0.1", 50000)
NASTY = [
    "\n",
    "\r\n",
    "\x1b[2J",
    "\x9b31m",
    '"',
    "\\",
    "\x7f",
    "\x85",
    "\u2028",
    "\ud800",
    "é",
    "\U0001f600",
    "%s",
    "%(x)s",
]

pieces = st.lists(st.sampled_from(NASTY) | st.characters(exclude_categories=["Cs"]), max_size=30).map("".join)
often = st.sampled_from([1, 1, 1, 50_000])
"""How often such a piece is repeated: values of some characters, and of 100 kB and more."""


class Records(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def take(self) -> logging.LogRecord:
        (record,) = self.records
        self.records.clear()
        return record


@pytest.fixture
def records() -> Iterator[Records]:
    """The records of both loggers at level info."""
    handler = Records()
    before = LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    yield handler
    LOG.removeHandler(handler)
    LOG.setLevel(before)


def text_of(record: logging.LogRecord) -> list[str]:
    return TextFormatter().format(record).split("\n")


def json_of(record: logging.LogRecord) -> Any:
    line = JSONFormatter().format(record)
    assert_harmless(line)
    return json.loads(line)


def assert_harmless(line: str) -> None:
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 200_000  # 16,384 characters, each eleven in JSON at most


def log_http(**values: Any) -> None:
    given = {"method": "GET", "path": b"/", "query": b"", "http_version": "1.1", "client": CLIENT} | values
    access.log_http(**given, status=200, bytes_out=13, seconds=0.0004, complete=True)


def log_open(**values: Any) -> None:
    access.log_websocket_open(**({"client": CLIENT, "path": b"/", "subprotocol": None, "compression": "off"} | values))


def log_refused(**values: Any) -> None:
    access.log_websocket_refused(
        **({"client": CLIENT, "path": b"/"} | values), status=403, ended_by="app", rule="", seconds=0.1
    )


def log_end(**values: Any) -> None:
    given = {"client": CLIENT, "path": b"/", "subprotocol": None, "reason": "", "code": 1000, "rule": ""} | values
    access.log_websocket_end(
        **given, compression="shared", ended_by="client", seconds=12.5, messages_in=3, bytes_in=120, messages_out=2,
        bytes_out=90, round_trip_s=0.0123,
    )  # fmt: skip


def log_rejection(client: Any = CLIENT, path: bytes = b"", reason: str = "") -> None:
    access.log_rejection(client, path, Violation(errors.NOT_HTTP, reason), 400)


# ---- one line, whatever is in it


@pytest.mark.parametrize(
    ("log", "name", "is_bytes"),
    [
        (log_http, "method", False), (log_http, "path", True), (log_http, "query", True),
        (log_http, "http_version", False), (log_open, "path", True), (log_open, "subprotocol", False),
        (log_refused, "path", True), (log_end, "path", True), (log_end, "subprotocol", False),
        (log_end, "reason", False), (log_rejection, "path", True), (log_rejection, "reason", False),
    ],
)  # fmt: skip
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(piece=pieces, times=often)
def test_any_value_makes_one_line_of_text_and_one_of_json(
    records: Records, log: Callable[..., None], name: str, is_bytes: bool, piece: str, times: int
) -> None:
    """Printable ASCII both; JSON gives the value back, and a formatter of somebody else's gets it escaped.

    Workers share a pipe, which takes 4,096 bytes in one piece (pipe(7)): a longer line would be torn by another one.
    """
    raw = (piece * times).encode("utf-8", "surrogatepass")
    value = raw.decode("latin-1") if is_bytes else piece * times
    log(**{name: raw if is_bytes else value})
    record = records.take()
    (line,) = text_of(record)
    assert_harmless(line)
    assert len(line) < 4096
    assert len(JSONFormatter().format(record)) < 4096
    given = json_of(record)[name] or ""
    assert given == value if len(value) <= 32 else value.startswith(given.removesuffix("..."))
    assert len(given) >= min(len(value), 32)
    assert_harmless(logging.Formatter(f"%({name})s %(client)s %(message)s").format(record))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(piece=pieces, times=often)
def test_any_address_makes_one_line(records: Records, piece: str, times: int) -> None:
    """A proxy may have told it."""
    host = piece * times
    log_http(client=(host, 0))
    record = records.take()
    (line,) = text_of(record)
    assert_harmless(line)
    assert host[:100] in json_of(record)["client"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(piece=pieces, times=often)
def test_any_exception_is_one_line_and_an_indented_traceback(records: Records, piece: str, times: int) -> None:
    said = piece * times
    try:
        raise ValueError(said) from KeyError(said)
    except ValueError as error:
        LOG.error("application raised in %s", "GET /", exc_info=error)
    record = records.take()
    # Another handler's formatter leaves the traceback in the record as it is.
    logging.Formatter().format(record)
    first, *rest = text_of(record)
    assert re.fullmatch(r"\S+ \S+ ERROR    application raised in GET /", first)
    for line in rest:
        assert_harmless(line)
        assert line.startswith("    ")
    exception = json_of(record)["exception"]
    assert exception["type"] == "ValueError"
    assert_harmless(exception["message"])
    assert exception["traceback"].startswith("KeyError: ")
    for line in exception["traceback"].split("\n"):
        assert_harmless(line)
    assert len(rest) < 300


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(piece=pieces, times=often)
def test_any_message_of_somebody_elses_makes_one_line(records: Records, piece: str, times: int) -> None:
    """A library logs below our name, or asyncio does."""
    said = piece * times
    logging.getLogger("asgiws.plugin").warning("said %s", said)
    record = records.take()
    (line,) = text_of(record)
    assert_harmless(line)
    assert json_of(record)["message"].startswith("said ")


def test_exception_that_cannot_be_said_is_logged_all_the_same(records: Records) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    LOG.error("application raised", exc_info=MuteError())
    record = records.take()
    assert "MuteError" in text_of(record)[-1]
    assert json_of(record)["exception"]["message"] == "<exception str() failed>"


def test_exception_of_many_lines_keeps_its_begin_and_its_end(records: Records) -> None:
    LOG.error("application raised", exc_info=ValueError("\n".join(f"line {number}" for number in range(5000))))
    lines = text_of(records.take())
    assert lines[1] == "    ValueError: line 0"
    assert lines[-1] == "    line 4999"
    assert "    ... 4744 lines left out" in lines
    assert len(lines) == 258


# ---- columns and colours


def test_clients_and_levels_are_columns(records: Records) -> None:
    """The words of each line begin below each other."""
    begins = set()
    for client in (("10.0.0.1", 80), ("255.255.255.255", 65535), None):
        log_http(client=client)
        begins.add(text_of(records.take())[0].index('"GET'))
        log_rejection(client)
        begins.add(text_of(records.take())[0].index("rejected"))
    LOG.critical("here")
    assert text_of(records.take())[0].index("here") + 22 == begins.pop()
    assert not begins


@pytest.mark.parametrize(
    ("level", "color"), [(10, "36"), (20, "32"), (30, "33"), (40, "31"), (50, "1;31")], ids=lambda value: str(value)
)
def test_level_is_coloured(records: Records, level: int, color: str) -> None:
    LOG.setLevel(logging.DEBUG)
    LOG.log(level, "here")
    name = f"{logging.getLevelName(level):<8}"
    assert f" \x1b[{color}m{name}\x1b[0m here" in TextFormatter(colors=True).format(records.take())


@pytest.mark.parametrize(
    ("code", "color"), [(1000, "32"), (1001, "32"), (1006, "33"), (1002, "31"), (1011, "31"), (4000, "36")]
)
def test_close_code_is_coloured(records: Records, code: int, color: str) -> None:
    """Green for an end in order, yellow for one that was cut, red for a fault, cyan for the application's own."""
    log_end(code=code, reason="\x1b[2J")
    line = TextFormatter(colors=True).format(records.take())
    assert f" closed \x1b[{color}m{code}\x1b[0m by client" in line
    assert line.count("\x1b") == 4, "a client colours nothing"


def test_colours_are_in_no_other_formatters_line(records: Records) -> None:
    log_end()
    record = records.take()
    TextFormatter(colors=True).format(record)
    assert "\x1b" not in logging.Formatter("%(message)s %(code)s").format(record)
    assert "\x1b" not in JSONFormatter().format(record)


# ---- what it costs not to log


def test_nothing_is_put_together_for_a_level_that_is_filtered(records: Records) -> None:
    """A value that cannot be formatted is not touched."""
    LOG.setLevel(logging.WARNING)
    for log in (log_http, log_open, log_refused, log_end):
        log(client=object(), path=object())
    assert records.records == []


def test_access_lines_can_be_switched_off_by_their_own_level(records: Records) -> None:
    ACCESS.setLevel(logging.WARNING)
    try:
        log_http()
    finally:
        ACCESS.setLevel(logging.NOTSET)
    assert records.records == []


# ---- the limit


def test_limit_admits_so_many_a_second_and_counts_the_rest(records: Records) -> None:
    """N and N + 1; the next second begins anew, and a second without a flood says nothing."""
    limit = LineLimit("rejections", per_second=3)
    assert [limit.admits(logging.INFO) for _ in range(5)] == [True, True, True, False, False]
    limit.second_passed()
    assert records.take().getMessage() == "left out 2 lines of rejections in a second"
    assert limit.admits(logging.INFO)
    limit.second_passed()
    assert records.records == []


def test_limit_does_not_count_what_the_level_leaves_out(records: Records) -> None:
    LOG.setLevel(logging.WARNING)
    limit = LineLimit("rejections", per_second=1)
    assert not limit.admits(logging.INFO)
    assert limit.admits(logging.ERROR)
    limit.second_passed()
    assert records.records == []


# ---- our own words


def test_messages_of_ours_are_ascii() -> None:
    """What is not would be escaped in the line: a section sign as \\xa7. Docstrings and the table of rules stay."""
    for path in Path(asgiws.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        said = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
        said += [node for node in ast.walk(tree) if isinstance(node, ast.Call) and "LOG" in ast.unparse(node.func)]
        for node in said:
            for each in ast.walk(node):
                assert not isinstance(each, ast.Constant) or str(each.value).isascii(), (path, each.lineno)
