"""What a server process logs: a line for each event, as text and as JSON, coloured on a terminal, and not in floods."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import PATIENCE_S
from tests.raw import RawClient, close, frame, handshake, text
from tests.server_process import APPS, ROOT, RunCommand, ServerProcess, Start, clean_environ, module_command
from tests.telemetry.log_help import APP, get, stopped_lines

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"


def make_every_event(process: ServerProcess) -> None:
    """Let clients do all that makes a line of its own."""
    get(process.port, "/hello?a=1")
    get(process.port, "/raise")
    with RawClient(process.port) as client:
        client.open_websocket("/chat?token=secret", "Sec-WebSocket-Protocol: chat", *OFFER)
        assert client.read_frame()[0] == 0x89, "a ping"
        client.send(frame(10, b"asgiws") + text("hello"))
        assert client.read_text() == "hello"
        client.send(close(4000, 'bye "\u00fc"'))
        client.read_to_end()
    with RawClient(process.port) as client:
        client.open_websocket("/chat")
        client.send(b"\x83\x80\0\0\0\0")
        client.read_to_end()
    with RawClient(process.port) as client:
        client.send(handshake("/refuse"))
        assert client.read_answer().status == 403
    with RawClient(process.port) as client:
        client.send(handshake("/late"))
        assert client.read_answer().status == 503


OFFER = ["Sec-WebSocket-Extensions: permessage-deflate"]
EVENTS_OPTIONS = ("--ping-interval", "0.1", "--handshake-timeout", "0.2")


# ---- text


@pytest.mark.promise
def test_line_for_each_event_tells_what_it_is_for(start: Start) -> None:
    """HTTP; a WebSocket's begin, end and refusal; who ended it, why, how long it took, and what it carried."""
    process = start(APP, *EVENTS_OPTIONS)
    make_every_event(process)
    lines = [line for line in stopped_lines(process) if re.match(TIME, line)]
    said = [re.sub(rf"^{TIME} ", "", line) for line in lines]
    client = r"127\.0\.0\.1:\d+ +"
    expected = [
        rf'INFO     {client}"GET /hello\?a=1 HTTP/1\.1" 200 5 bytes in \d+\.\dms',
        rf'INFO     {client}"GET /raise HTTP/1\.1" 500 21 bytes in \d+\.\dms',
        r"ERROR    application raised in GET /raise",
        rf'INFO     {client}"WebSocket /chat" open subprotocol=chat compression=shared',
        rf'INFO     {client}"WebSocket /chat" closed 4000 by client after \d+\.\d{{3}}s, in 1 messages \d+ bytes, '
        r'out 1 messages \d+ bytes, subprotocol=chat compression=shared "bye \\"\\xfc\\"" round-trip=\d+\.\dms',
        rf'INFO     {client}"WebSocket /chat" open subprotocol=- compression=off',
        rf"INFO     {client}rejected 1002 /chat: .* \(reserved-opcode\)",
        rf'INFO     {client}"WebSocket /chat" closed 1002 by server after .* rule=reserved-opcode',
        rf'INFO     {client}"WebSocket /refuse" refused 403 by app in \d+\.\dms',
        rf"INFO     {client}rejected 503 /late: .* \(handshake-timeout\)",
        rf'INFO     {client}"WebSocket /late" refused 503 by server in \d+\.\dms rule=handshake-timeout',
    ]
    for pattern in expected:
        assert [line for line in said if re.fullmatch(pattern, line)], (pattern, said)
    assert "secret" not in "".join(lines), "the query of a WebSocket has tokens"


def test_response_that_its_client_left_has_a_line(start: Start) -> None:
    """Also one that had not begun."""
    process = start(APP)
    with RawClient(process.port) as client:
        client.send(b"GET /half HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.read_until(b"half")
        client.reset()
        process.wait_stderr(r'"GET /half HTTP/1\.1" 200 4 bytes in \d+\.\dms incomplete$')


def test_handshake_that_its_client_left_has_a_line(start: Start) -> None:
    process = start(APP, "--handshake-timeout", "0")
    with RawClient(process.port) as client:
        client.send(handshake("/late"))
        get(process.port)
        client.reset()
        process.wait_stderr(r'"WebSocket /late" refused - by client in \d+\.\dms$')


def test_no_access_log_leaves_errors_and_rejections(start: Start) -> None:
    process = start(APP, "--no-access-log", *EVENTS_OPTIONS)
    make_every_event(process)
    lines = "\n".join(stopped_lines(process))
    assert '"' not in re.sub(r"(?m)^    .*$", "", lines), "no line of a client"
    assert "application raised in GET /raise" in lines
    assert "(handshake-timeout)" in lines


# ---- JSON


def table_of_keys() -> dict[str, tuple[str, set[str]]]:
    """The table of the README: type and events by key."""
    text = (ROOT / "asgiws" / "telemetry" / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([\w ]+) \| ([\w, -]+) \|", text, re.M)
    return {key: (kind, set(events.split(", "))) for key, kind, events in rows}


def kind_of(value: object) -> str:
    kinds = {str: "text", bool: "flag", int: "number", float: "number", dict: "object", type(None): "null"}
    return kinds[type(value)]


@pytest.mark.promise
def test_json_has_the_keys_of_the_table(start: Start) -> None:
    """Every event with all of its keys and no others, each of its type (asgiws/telemetry/README.md)."""
    table = table_of_keys()
    always = {key for key, (_, where) in table.items() if where == {"every line"}}
    process = start(APP, "--log-format", "json", "--write-timeout", "0.2", *EVENTS_OPTIONS)
    make_every_event(process)
    with RawClient(process.port, receive_buffer=4096) as client:
        client.send(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        process.wait_stderr('"event": "slow-consumer"')
    seen: set[str] = set()
    for line in stopped_lines(process):
        assert line.isascii()
        assert line.isprintable()
        values = json.loads(line)
        event = values.get("event")
        seen.add(event)
        expected = always | {key for key, (_, where) in table.items() if event and where & {"every event", event}}
        assert set(values) - {"exception"} == expected, line
        for key, value in values.items():
            assert kind_of(value) in table[key][0].split(" or "), (key, value)
        if "exception" in values:
            assert set(values["exception"]) == {"type", "message", "traceback"}
    named = {event for _, where in table.values() for event in where if not event.startswith(("every", "errors"))}
    assert seen == named | {None}


def test_what_an_application_raises_is_escaped(start: Start) -> None:
    """Printable ASCII, in the line's object and in the text below the line."""
    for form in ("text", "json"):
        process = start(APP, "--log-format", form)
        get(process.port, "/raise")
        lines = stopped_lines(process)
        for line in lines:
            assert line.isascii()
            assert line.isprintable()
        if form == "text":
            assert "    ValueError: \\x1b[2J\\x9b31m\\u2028forged" in lines
            assert "    2026-01-01 00:00:00,000 INFO     forged" in lines
        else:
            (exception,) = [values["exception"] for line in lines if "exception" in (values := json.loads(line))]
            assert exception["type"] == "ValueError"
            assert exception["message"].startswith("\\x1b[2J\\x9b31m\\u2028forged\\n2026-01-01")
            assert exception["traceback"].startswith("Traceback (most recent call last):\n")


RAISES = 'raise ValueError("\\x1b[2J\\x9b31m forged\\r\\n2026-01-01 00:00:00,000 INFO     forged\\u202e")\n'
SHOWN = ["    ValueError: \\x1b[2J\\x9b31m forged\\r", "    2026-01-01 00:00:00,000 INFO     forged\\u202e"]


def assert_import_is_shown(line: str) -> None:
    """Check that a line is the object about an import that raised."""
    values = json.loads(line)
    assert values["level"] == "error"
    assert values["message"] == "application broken:app raised while it was imported"
    assert values["exception"]["type"] == "ValueError"
    assert values["exception"]["traceback"].splitlines()[-2:] == [text.strip() for text in SHOWN]


@pytest.mark.parametrize("more", [[], ["--workers", "1"]], ids=["alone", "worker"])
def test_what_an_import_raises_is_escaped(run_command: RunCommand, tmp_path: Path, more: list[str]) -> None:
    """As text indented like every traceback, so that no line of it passes for a record; as JSON in one object."""
    (tmp_path / "broken.py").write_text(RAISES)
    for form in ("text", "json"):
        ended = run_command("broken:app", "--port", "0", "--log-format", form, *more, folder=tmp_path)
        assert ended.code == 1
        for line in ended.stderr:
            assert line.isascii()
            assert line.isprintable()
        if form == "text":
            last = ended.stderr.index("asgiws: application broken:app raised while it was imported, see above")
            assert ended.stderr[last - 2 : last] == SHOWN
            assert all(line.startswith("    ") for line in ended.stderr[:last])
        else:
            assert_import_is_shown(ended.stderr[0])
            assert [json.loads(line)["message"] for line in ended.stderr[1:]][-1:] == (["stopped"] if more else [])


@pytest.mark.parametrize(
    ("more", "last"),
    [(["--workers", "1"], "rolling restart given up"), (["--reload"], "worker exited: exit code 1")],
    ids=["rolling-restart", "reload"],
)
def test_new_code_that_cannot_be_imported_is_one_object(
    start: Start, tmp_path: Path, more: list[str], last: str
) -> None:
    (tmp_path / "broken.py").write_text(f"from {APPS} import echo as app\n")
    environ = {"PYTHONDONTWRITEBYTECODE": "1"}  # both versions may be of one second
    process = start("broken:app", "--log-format", "json", *more, folder=tmp_path, environ=environ)
    (tmp_path / "broken.py").write_text(RAISES)
    process.signal(signal.SIGHUP)
    process.wait_stderr(last)
    shown = [line for line in stopped_lines(process) if "raised while" in line]
    assert shown
    for line in shown:  # --reload may see the signal and the change one after the other
        assert_import_is_shown(line)


STARTUP_RAISES = """
import traceback


async def app(scope, receive, send):
    await receive()
    try:
        raise ValueError("no\\x1b[2J database")
    except ValueError:
        await send({"type": "lifespan.startup.failed", "message": traceback.format_exc()})
        raise
"""


@pytest.mark.parametrize("more", [[], ["--workers", "1"]], ids=["alone", "worker"])
def test_exception_in_the_startup_is_a_traceback(run_command: RunCommand, tmp_path: Path, more: list[str]) -> None:
    """Starlette sends the traceback as its message, and raises too. It is shown once, with lines that are lines."""
    (tmp_path / "broken.py").write_text(STARTUP_RAISES)
    ended = run_command("broken:app", "--port", "0", *more, folder=tmp_path)
    assert ended.code == 3
    last = ended.stderr.index("asgiws: application startup failed, see above")
    shown = [line.strip() for line in ended.stderr[:last]]
    assert shown[0] == "Traceback (most recent call last):"
    assert shown[1].startswith('File "' + str(tmp_path / "broken.py"))
    assert shown[-1] == "ValueError: no\\x1b[2J database"
    assert all(line.startswith("    ") for line in ended.stderr[:last])


def test_exception_in_the_startup_is_an_object(run_command: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(STARTUP_RAISES)
    ended = run_command("broken:app", "--port", "0", "--log-format", "json", folder=tmp_path)
    (line,) = ended.stderr
    values = json.loads(line)
    assert values["message"] == "application startup failed"
    assert values["exception"]["type"] == "ValueError"
    assert values["exception"]["message"] == "no\\x1b[2J database"
    assert values["exception"]["traceback"].splitlines()[0] == "Traceback (most recent call last):"


def test_message_of_several_lines_is_shown_as_lines(run_command: RunCommand) -> None:
    ended = run_command(f"{APPS}:startup_fails", "--port", "0")
    assert ended.stderr == ["asgiws: application startup failed: no database", "    at all"]


def test_why_a_server_does_not_start_is_one_object(run_command: RunCommand) -> None:
    """Also when the log itself goes to a file: who collects standard error gets objects only."""
    for more in ([], ["--log-file", os.devnull]):
        ended = run_command(f"{APPS}:startup_fails", "--port", "0", "--log-format", "json", *more)
        (line,) = ended.stderr
        values = json.loads(line)
        assert ended.code == 3
        assert set(values) == {"time", "level", "logger", "pid", "message"}
        assert (values["level"], values["logger"]) == ("error", "asgiws")
        assert values["message"] == "application startup failed: no database\\nat all"


def test_variables_that_are_not_used_are_objects(run_command: RunCommand) -> None:
    """Also beside what is refused next."""
    ended = run_command("--log-format", "json", environ={"ASGIWS_PRT": "1"})
    assert ended.code == 2
    said = [(values["level"], values["message"]) for values in map(json.loads, ended.stderr)]
    assert [level for level, _ in said] == ["warning", "error"]
    assert said[0][1].startswith("environment ASGIWS_PRT is not used")
    assert said[1][1].startswith("no application was given")


def test_what_is_said_takes_the_form_of_a_configuration_of_ones_own(run_command: RunCommand, tmp_path: Path) -> None:
    """`--log-config` with our objects, at the root too."""
    config = {
        "formatters": {"json": {"()": "asgiws.telemetry.formats.JSONFormatter"}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"handlers": ["console"]},
    }
    (tmp_path / "log.json").write_text(json.dumps(config))
    ended = run_command(f"{APPS}:startup_fails", "--port", "0", "--log-config", str(tmp_path / "log.json"))
    assert [json.loads(line)["level"] for line in ended.stderr] == ["error"]


def test_fault_that_is_found_before_the_log_is_configured_is_one_plain_line(run_command: RunCommand) -> None:
    ended = run_command("--log-format", "json", "--port", "x")
    (line,) = ended.stderr
    assert line.startswith("asgiws: --port: 'x' was given")


def test_task_that_raises_is_logged_in_the_same_format(start: Start) -> None:
    """asyncio tells of it when the task is destroyed; uvloop through the same logger."""
    process = start(APP, "--log-format", "json")
    get(process.port, "/task")
    (line,) = [line for line in stopped_lines(process) if '"logger": "asyncio"' in line]
    values = json.loads(line)
    assert values["level"] == "error"
    assert values["message"].startswith("Task exception was never retrieved\\n")
    assert values["exception"]["message"] == "\\x1b[2J forged"


def test_warning_of_python_is_an_object(start: Start) -> None:
    process = start(APP, "--log-format", "json", environ={"PYTHONWARNINGS": "default"})
    assert get(process.port, "/warn") == 200
    (warning,) = [line for line in map(json.loads, stopped_lines(process)) if line["logger"] == "py.warnings"]
    assert set(warning) == {"time", "level", "logger", "pid", "message"}
    assert warning["level"] == "warning"
    assert "UserWarning: \\x1b[2J\\x9b31m\\nforged" in warning["message"]
    assert not warning["message"].endswith("n")


# ---- records of the application


LOGS = """
import logging
{setup}
async def app(scope, receive, send):
    assert scope["type"] == "http"
    logging.getLogger("shop.orders").info("order %d\\n", 7)
    logging.getLogger("shop.orders").warning("late")
    await send({{"type": "http.response.start", "status": 204}})
    await send({{"type": "http.response.body"}})
"""


def log_records(start: Start, folder: Path, setup: str, *arguments: str) -> list[str]:
    """Serve an application that logs, and return what it logged."""
    (folder / "shop.py").write_text(LOGS.format(setup=setup))
    process = start("shop:app", "--lifespan", "off", "--no-access-log", *arguments, folder=folder)
    get(process.port)
    return [line for line in stopped_lines(process) if "order" in line or "late" in line]


@pytest.mark.parametrize("more", [[], ["--workers", "1"]], ids=["alone", "worker"])
def test_records_of_an_application_without_handlers_are_objects(start: Start, tmp_path: Path, more: list[str]) -> None:
    lines = [json.loads(line) for line in log_records(start, tmp_path, "", "--log-format", "json", *more)]
    assert [(line["level"], line["logger"], line["message"]) for line in lines] == [
        ("info", "shop.orders", "order 7"), ("warning", "shop.orders", "late"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("setup", "logged"),
    [
        ("logging.basicConfig(format='mine %(message)s')", ["mine late"]),
        ("logging.basicConfig(format='mine %(message)s', level='INFO')", ["mine order 7", "mine late"]),
    ],
    ids=["default level", "info"],
)
def test_application_that_configures_logging_keeps_its_own(
    start: Start, tmp_path: Path, setup: str, logged: list[str]
) -> None:
    assert log_records(start, tmp_path, setup, "--log-format", "json") == logged


# ---- workers


def test_text_line_says_which_process_wrote_it(start: Start) -> None:
    """The process id of the worker, as `asgiws top` and the supervisor's lines have it."""
    process = start(APP, "--workers", "1")
    get(process.port)
    lines = stopped_lines(process)
    (worker,) = [found[1] for line in lines if (found := re.search(r"worker 1 is process (\d+)", line))]
    (access,) = [line for line in lines if "HTTP/1.1" in line]
    assert re.match(rf"{TIME} \[{worker}\] INFO     127\.0\.0\.1:\d+ +\"GET / HTTP/1\.1\" 200 ", access)
    (listening,) = [line for line in lines if "listening on" in line]
    assert f" [{process.pid}] INFO     listening on" in listening


# ---- colours


class Terminal:
    """A server on a pseudo-terminal; `output` is what it wrote there, when it has ended."""

    def __init__(self, *arguments: str, **environ: str) -> None:
        self._master, slave = pty.openpty()
        # What the terminal is for the server depends on these; the tests may run with any of them.
        inherited = {name: value for name, value in clean_environ().items() if name not in ("NO_COLOR", "TERM")}
        self._process = subprocess.Popen(
            module_command(["--port", "0", *arguments]), cwd=ROOT, env=inherited | {"TERM": "xterm"} | environ,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=slave,
        )  # fmt: skip
        os.close(slave)
        self.output = b""

    def read_until(self, mark: bytes) -> None:
        while mark not in self.output:
            self.output += os.read(self._master, 4096)

    def play(self) -> str:
        """Make an HTTP line and a WebSocket's, stop the server, and give all that it wrote."""
        self.read_until(b"\n")
        found = re.search(rb"listening on http://127\.0\.0\.1:(\d+)", self.output)
        assert found is not None, self.output
        port = int(found[1])
        get(port)
        with RawClient(port) as client:
            client.open_websocket()
            client.send(close(4000))
            client.read_to_end()
        self.read_until(b"4000")
        self._process.send_signal(signal.SIGTERM)
        self.read_until(b"stopped")
        assert self._process.wait(PATIENCE_S) == 0
        return self.output.decode("ascii")

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._master)


@pytest.fixture
def open_terminal() -> Iterator[Callable[..., Terminal]]:
    """Start servers on pseudo-terminals."""
    terminals: list[Terminal] = []

    def start(*arguments: str, **environ: str) -> Terminal:
        terminals.append(Terminal(APP, *arguments, **environ))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


def test_terminal_sees_level_status_and_close_code_in_colour(open_terminal: Callable[..., Terminal]) -> None:
    output = open_terminal().play()
    assert " \x1b[32mINFO    \x1b[0m listening on " in output
    assert ' HTTP/1.1" \x1b[32m200\x1b[0m 5 bytes in ' in output
    assert " closed \x1b[36m4000\x1b[0m by client after " in output


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        (["--no-use-colors"], {}), ([], {"NO_COLOR": "1"}), ([], {"TERM": "dumb"}), (["--log-format", "json"], {}),
        ([], {"ASGIWS_USE_COLORS": "no"}),
    ],
    ids=["flag", "NO_COLOR", "dumb", "json", "variable"],
)  # fmt: skip
def test_terminal_sees_no_colour_when_none_is_wanted(
    open_terminal: Callable[..., Terminal], arguments: list[str], environ: dict[str, str]
) -> None:
    assert "\x1b" not in open_terminal(*arguments, **environ).play()


def test_pipe_sees_colour_only_when_asked(start: Start) -> None:
    for arguments, colored in (([], False), (["--use-colors"], True)):
        process = start(*arguments, APP, environ={"TERM": "xterm", "NO_COLOR": ""})
        get(process.port)
        lines = stopped_lines(process)
        assert len(lines) >= 4
        assert [line for line in lines if ("\x1b" in line) != colored] == []


# ---- floods


def test_flood_of_application_errors_is_counted_and_not_written(start: Start) -> None:
    """20 tracebacks a second, and a line for the others; each WebSocket is closed all the same."""
    process = start(APP, "--no-access-log")
    for _ in range(200):
        with RawClient(process.port) as client:
            client.send(handshake("/raise") + text("x"))
            assert client.read_answer().status == 101
            assert client.read_close()[0] == 1011
    process.wait_stderr(r"WARNING  left out \d+ lines of application errors in a second$")
    lines = stopped_lines(process)
    written = sum("application raised in websocket /raise" in line for line in lines)
    left_out = sum(int(line.split()[5]) for line in lines if "left out" in line)
    assert 20 <= written < 200
    assert written + left_out == 200
