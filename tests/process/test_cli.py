"""The command line as a user meets it: what it takes, what it says, and the exit code it leaves."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path

import pytest

import asgiws
from asgiws.cli import make_parser
from asgiws.config.option import OptionError, spelled
from asgiws.config.options import OPTIONS, Config
from asgiws.config.sources import Settings
from tests.process.helpers import APPS, RunCommand, Start, assert_one_line
from tests.raw import RawClient

ECHO = f"{APPS}:echo"


def parse(*arguments: str, environ: dict[str, str] | None = None) -> Config:
    """Give the Config that flags and environment make."""
    return Settings.load(vars(make_parser().parse_args(["app:app", *arguments])), environ or {}).config


# ---- errors: what was seen, what is allowed, what to do


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], ["no application was given", "module:attribute, such as app:app", "--help"]),
        (["app"], ["'app' was given", "allowed: module:attribute, such as app:app"]),
        (["app:"], ["'app:' was given", "allowed: module:attribute"]),
        ([":app"], ["':app' was given", "allowed: module:attribute"]),
        ([".app:app"], ["'.app:app' was given", "allowed: module:attribute"]),
        (["no_such:app"], ["module 'no_such' was not found in", "--app-dir"]),
        (["no_such.sub:app"], ["module 'no_such' was not found in", "--app-dir"]),
        (["tests.no_such:app"], ["module 'tests.no_such' was not found in", "--app-dir"]),
        ([f"{APPS}:no_such"], [f"module '{APPS}' has no attribute 'no_such'", "it has: "]),
        ([f"{APPS}:echo.no_such"], ["has no attribute 'echo.no_such'"]),
        ([f"{APPS}:NOT_CALLABLE"], ["is int", "allowed: an ASGI application"]),
        ([f"{APPS}:NOT_CALLABLE", "--factory"], ["is int", "allowed: an ASGI application"]),
        ([f"{APPS}:make_nothing", "--factory"], ["gave NoneType", "allowed: an ASGI application"]),
        ([ECHO, "more:app"], ["'more:app' was given", "allowed: one module:attribute"]),
        ([ECHO, "--prot", "1"], ["no option --prot", "did you mean --port?"]),
        ([ECHO, "--ws-max-sise=1"], ["no option --ws-max-sise;", "did you mean --ws-max-size?"]),
        ([ECHO, "--no-acess-log"], ["no option --no-acess-log", "did you mean --no-access-log?"]),
        ([ECHO, "--verzion"], ["no option --verzion", "did you mean --version?"]),
        ([ECHO, "--qqq"], ["no option --qqq", "--help"]),
        ([ECHO, "--q\nq"], ["no option --q\\nq"]),
        ([ECHO, "--max-q", "1"], ["no option --max-q", "--max-queue"]),
        ([ECHO, "--port"], ["argument --port: expected one argument"]),
        ([ECHO, "--no-factory=1"], ["--no-factory"]),
    ],
    ids=lambda value: " ".join(value).replace("\n", "~") if isinstance(value, list) else None,
)
def test_usage_error_is_one_line_and_exit_code_2(
    run_command: RunCommand, arguments: list[str], said: list[str]
) -> None:
    """What cannot be run is refused before it is tried (cli.py: exit codes)."""
    assert_one_line(run_command(*arguments), 2, *said)


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--port", "65536", "--port: '65536' was given, allowed: 0 to 65535"),
        ("--port", "-1", "--port: '-1' was given, allowed: 0 to 65535"),
        ("--ping-timeout", "-1s", "--ping-timeout: '-1s' was given, allowed: 0 or more"),
        ("--backlog", "many", "--backlog: 'many' was given, allowed: a number such as 32"),
        ("--max-queue", "1.5", "--max-queue: '1.5' was given, allowed: a whole number"),
        ("--ws-max-queue", "0", "--max-queue: '0' was given, allowed: 1 or more"),
        ("--max-message-size", "16x", "--max-message-size: '16x' was given, allowed: a number such as 65536, 64k or"),
        ("--close-timeout", "soon", "--close-timeout: 'soon' was given, allowed: a number such as 30, 30s, 500ms"),
        ("--loop", "uvlop", "--loop: 'uvlop' was given, allowed: auto, asyncio, uvloop (did you mean uvloop?)"),
        ("--ws-per-message-deflate", "maybe", "--compression: 'maybe' was given, allowed: shared, dedicated, off"),
        ("--header", "nonsense", "--header: 'nonsense' was given, allowed: Name: value, without line ends"),
        ("--header", "a: b\r\nc: d", "--header: 'a: b\\r\\nc: d' was given, allowed: Name: value, without line ends"),
        ("--allowed-origins", "x", "--allowed-origins: 'x' was given, allowed: an origin such as https://example.com"),
        ("--shutdown-code", "1005", "--shutdown-code: 1005 was given, allowed: 1000-1003, 1007-1014, 3000-4999"),
        ("--write-low-water", "65k", "--write-low-water: 66560 was given, allowed: at most --write-high-water, which"),
    ],
)
def test_bad_value_is_one_line_and_exit_code_2(run_command: RunCommand, flag: str, value: str, said: str) -> None:
    """One value of each kind that the option does not take."""
    assert_one_line(run_command(ECHO, f"{flag}={value}"), 2, said)


def test_bad_value_of_a_variable_names_the_variable(run_command: RunCommand) -> None:
    """Who set it has to find it."""
    ended = run_command(ECHO, environ={"ASGIWS_PORT": "http"})
    assert_one_line(ended, 2, "ASGIWS_PORT, --port: 'http' was given, allowed: a number such as 32")
    ended = run_command(ECHO, environ={"ASGIWS_ACCESS_LOG": "maybe"})
    assert_one_line(ended, 2, "ASGIWS_ACCESS_LOG, --access-log: 'maybe' was given, allowed: true or false")


def test_port_in_use_is_one_line_and_exit_code_1(run_command: RunCommand) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run_command(ECHO, "--port", str(port), "--lifespan", "off")
    assert_one_line(ended, 1, f"cannot listen on 127.0.0.1 port {port}: Address already in use", "--host and --port")


def test_host_of_another_machine_is_one_line_and_exit_code_1(run_command: RunCommand) -> None:
    """RFC 5737 §3: 203.0.113.0/24 is for documentation, so no machine has it."""
    ended = run_command(ECHO, "--host", "203.0.113.1", "--port", "0", "--lifespan", "off")
    assert_one_line(ended, 1, "cannot listen on 203.0.113.1 port 0: Cannot assign requested address", "--host")


@pytest.mark.parametrize("host", ["a..b", "x" * 64], ids=["empty-label", "long-label"])
def test_host_that_is_no_name_is_one_line_and_exit_code_1(run_command: RunCommand, host: str) -> None:
    """Python's resolver raises something else for these than for a name that nobody has."""
    ended = run_command(ECHO, "--host", host, "--port", "0", "--lifespan", "off")
    assert_one_line(ended, 1, f"--host: {host!r} is no address of this machine")


def test_startup_that_failed_is_one_line_and_exit_code_3(run_command: RunCommand) -> None:
    """ASGI lifespan.startup.failed, and its message without its line end."""
    ended = run_command(f"{APPS}:startup_fails", "--port", "0")
    assert_one_line(ended, 3, "application startup failed: no database\\nat all")


def test_missing_lifespan_is_exit_code_3_when_it_is_asked_for(run_command: RunCommand) -> None:
    ended = run_command("tests.apps:echo", "--port", "0", "--lifespan", "on")
    assert_one_line(ended, 3, "application has no lifespan, and --lifespan on asks for one")


# ---- faults of the application's own code


def traceback_files(lines: list[str]) -> list[str]:
    """The files of a traceback's frames, in order."""
    return [found[1] for line in lines if (found := re.match(r' +File "(.*)", line', line))]


@pytest.mark.parametrize(
    ("source", "last"),
    [
        ("import helper\n", "ModuleNotFoundError: No module named 'missing_dependency'"),
        ("def fail():\n    raise LookupError('own fault')\nfail()\n", "LookupError: own fault"),
        ("from helper2 import nothing\n", "ImportError: cannot import name 'nothing'"),
        ("app = (\n", "SyntaxError: '(' was never closed"),
        ("import broken.sub\n", "ModuleNotFoundError: No module named 'broken.sub'; 'broken' is not a package"),
    ],
    ids=["missing-dependency", "raises", "missing-name", "syntax-error", "missing-submodule"],
)
def test_fault_while_importing_shows_the_traceback_of_the_application_only(
    run_command: RunCommand, tmp_path: Path, source: str, last: str
) -> None:
    """The traceback begins with the application's first frame: who reads it looks for a fault of their own."""
    module = tmp_path / "broken.py"
    module.write_text(source)
    (tmp_path / "helper.py").write_text("import missing_dependency\n")
    (tmp_path / "helper2.py").write_text("")
    ended = run_command("broken:app", folder=tmp_path)
    assert ended.code == 1
    files = traceback_files(ended.stderr)
    assert files[0] == str(module)
    assert [file for file in files if Path(file).parent != tmp_path] == []
    assert ended.stderr[-2].startswith(f"    {last}")
    assert ended.stderr[-1] == "asgiws: application broken:app raised while it was imported, see above"


def test_factory_that_raises_shows_its_traceback(run_command: RunCommand) -> None:
    ended = run_command(f"{APPS}:make_failing", "--factory")
    assert ended.code == 1
    (file,) = traceback_files(ended.stderr)
    assert file.endswith("apps.py")
    assert ended.stderr[-2] == "    LookupError: the factory's own fault"


def test_interrupt_while_importing_is_one_line(start: Start, tmp_path: Path) -> None:
    """Ctrl-C before there is anything to stop."""
    (tmp_path / "slow.py").write_text("print('importing', flush=True)\nimport time\ntime.sleep(3600)\n")
    process = start("slow:app", folder=tmp_path, wait_ready=False)
    process.wait_stdout("importing")
    process.signal(signal.SIGINT)
    assert process.wait() == 1
    assert process.rest_of_stderr() == ["asgiws: interrupted before the application was served"]


def test_failed_start_ends_in_spite_of_threads(run_command: RunCommand, tmp_path: Path) -> None:
    """A thread of the application does not keep a process that could not start."""
    (tmp_path / "threads.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait).start()\napp = print\n"
    )
    ended = run_command("threads:app", "--lifespan", "off", "--host", "203.0.113.1", folder=tmp_path)
    assert_one_line(ended, 1, "cannot listen on 203.0.113.1")


# ---- finding the application


def test_current_folder_is_on_the_path(start: Start, tmp_path: Path) -> None:
    """`asgiws app:app` next to app.py, as documented."""
    (tmp_path / "local_app.py").write_text(f"from {APPS} import facts as app\n")
    start("local_app:app", folder=tmp_path)


def test_app_dir_is_on_the_path(start: Start, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "local_app.py").write_text(f"from {APPS} import facts as app\n")
    start("local_app:app", "--app-dir", "src", folder=tmp_path)


def test_app_dir_comes_before_everything_else_on_the_path(start: Start, tmp_path: Path) -> None:
    """A module of the user's own, of a name that the standard library has too, is the one that is meant."""
    (tmp_path / "this.py").write_text(f"from {APPS} import facts as app\n")
    start("this:app", "--app-dir", str(tmp_path))


def test_factory_makes_the_application_once(start: Start) -> None:
    process = start(f"{APPS}:make_echo", "--factory")
    with RawClient(process.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi")
        assert client.read_answer().body == b"hi"
    process.terminate()
    assert process.wait() == 0
    process.rest_of_stdout()
    assert process.stdout.count("factory called") == 1


def test_application_can_come_from_the_environment(start: Start) -> None:
    start(environ={"ASGIWS_APP": f"{APPS}:facts"})


def test_application_can_be_a_nested_attribute(start: Start, tmp_path: Path) -> None:
    (tmp_path / "nested.py").write_text(f"from {APPS} import facts\nclass Site:\n    app = staticmethod(facts)\n")
    start("nested:Site.app", folder=tmp_path)


# ---- options


def test_version_is_that_of_the_package(run_command: RunCommand) -> None:
    ended = run_command("--version")
    assert (ended.code, ended.stdout, ended.stderr) == (0, [f"asgiws {asgiws.__version__}"], [])


def test_help_lists_every_option(run_command: RunCommand) -> None:
    """Each flag and each other spelling of it, with a default; and nothing else that begins with two dashes."""
    ended = run_command("--help", environ={"COLUMNS": "100"})
    assert (ended.code, ended.stderr) == (0, [])
    listed = set()
    for line in ended.stdout:
        if line.startswith("  -"):
            listed |= set(re.findall(r"--[a-z0-9-]+", re.split(r"\s{2,}", line.strip())[0]))
    allowed = {"--help", "--version", "--config", "--check-config"}
    for name, option in OPTIONS.items():
        for flag in (spelled(name), *(f"--{alias}" for alias in option.aliases)):
            allowed |= {flag, f"--no-{flag[2:]}"} if option.negatable else {flag}
    assert listed == allowed
    assert " ".join(" ".join(ended.stdout).split()).count("(default: ") >= len(OPTIONS)


def test_flag_goes_before_environment_before_default() -> None:
    environ = {"ASGIWS_MAX_QUEUE": "7", "ASGIWS_PORT": "7000"}
    config = parse("--max-queue", "9", environ=environ)
    assert (config.max_queue, config.port, config.backlog) == (9, 7000, Config().backlog)


def test_alias_goes_before_environment() -> None:
    """Another spelling of a flag is that flag."""
    assert parse("--ws-max-queue", "9", environ={"ASGIWS_MAX_QUEUE": "7"}).max_queue == 9


def test_negated_flag_goes_before_environment() -> None:
    assert parse("--no-access-log", environ={"ASGIWS_ACCESS_LOG": "true"}).access_log is False


def test_every_option_has_a_variable() -> None:
    """Every option's default, as text, comes back from its variable."""
    for name, option in OPTIONS.items():
        default = getattr(Config(), name)
        text = ",".join(default) if option.kind == "list" else str(default)
        assert getattr(parse(environ={f"ASGIWS_{name.upper()}": text}), name) == default


def test_list_in_a_variable_is_joined_by_commas() -> None:
    """With or without spaces behind them."""
    environ = {"ASGIWS_ALLOWED_ORIGINS": "https://a.example, https://b.example,*.c.example"}
    assert parse(environ=environ).allowed_origins == ("https://a.example", "https://b.example", "*.c.example")


def test_bad_variable_is_refused_although_a_flag_is_given() -> None:
    """A mistake in the environment does not wait for the day on which the flag goes."""
    with pytest.raises(OptionError, match="ASGIWS_PORT, --port: 'x' was given"):
        parse("--port", "1", environ={"ASGIWS_PORT": "x"})


def test_all_options_of_uvicorn_serve_together(start: Start) -> None:
    """The flags reach the server: each one here shows in the answer, or in what the process prints."""
    process = start(
        f"{APPS}:facts", "--host", "localhost", "--backlog", "8", "--root-path", "/api", "--log-level", "info",
        "--lifespan", "on", "--no-server-header", "--no-date-header", "--header", "X-Frame: a, b", "--no-access-log",
        "--ws-max-size", "1024", "--ws-max-queue", "4", "--ws-ping-interval", "5", "--ws-ping-timeout", "5",
        "--timeout-keep-alive", "5", "--timeout-graceful-shutdown", "5", "--limit-concurrency", "1",
        "--h11-max-incomplete-event-size", "300", "--ws-per-message-deflate", "false",
    )  # fmt: skip
    with RawClient(process.port) as client:
        client.send(b"GET /path HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = client.read_answer()
        assert sorted(name for name, _ in answer.headers) == [b"content-length", b"x-frame"]
        assert answer.header(b"x-frame") == b"a, b"
        facts = answer.json()
        assert isinstance(facts, list)
        assert facts[:2] == ["/api", "/api/path"]
        with RawClient(process.port) as refused:
            assert refused.read_answer().status == 503
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 300)
        assert client.read_answer().status == 431
    process.terminate()
    assert process.wait() == 0
    process.rest_of_stderr()
    assert [line for line in process.stderr if "HTTP/1.1" in line] == []
