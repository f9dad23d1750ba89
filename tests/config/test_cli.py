"""The command line as a user meets it: what it takes, what it says, and the exit code it leaves."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import asgiws
from asgiws.cli import make_parser
from asgiws.config.cpus import usable_cpus
from asgiws.config.option import OptionError, spelled
from asgiws.config.options import OPTIONS, Config
from asgiws.config.other_servers import FLAGS_OF_OTHERS, instead_of
from asgiws.config.sources import Settings
from asgiws.protocol.websocket import deflate_engines
from tests import PATIENCE_S
from tests.raw import RawClient
from tests.server_process import APPS, ROOT, RunCommand, Start, assert_one_line, clean_environ, post

ECHO = f"{APPS}:echo"


def parse(*arguments: str, environ: dict[str, str] | None = None) -> Config:
    """Return the Config that flags and environment make."""
    return Settings.load(vars(make_parser().parse_args(["app:app", *arguments])), environ or {}).config


# ---- errors: what was seen, what is allowed, what to do


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], ["no application was given", "module:attribute, such as app:app", "--help"]),
        (["chat"], ["'chat' was given", "allowed: module:attribute", "did you mean chat:app?"]),
        (["chat:"], ["'chat:' was given", "did you mean chat:app?"]),
        (["chat.app"], ["'chat.app' was given", "did you mean chat:app?"]),
        (["chat.py"], ["'chat.py' was given", "did you mean chat:app?"]),
        (["chat.py:site"], ["'chat.py:site' was given", "did you mean chat:site?"]),
        (["sub/chat2:app"], ["'sub/chat2:app' was given", "did you mean sub.chat2:app?"]),
        (["./sub/chat2.py"], ["'./sub/chat2.py' was given", "did you mean sub.chat2:app?"]),
        (["/srv/chat.py:app"], ["'/srv/chat.py:app' was given", "such as app:app"]),
        ([":app"], ["':app' was given", "allowed: module:attribute"]),
        ([".app:app"], ["'.app:app' was given", "allowed: module:attribute"]),
        (["no_such:app"], ["module 'no_such' was not found in", "--app-dir"]),
        (["no_such.sub:app"], ["module 'no_such' was not found in", "--app-dir"]),
        (["tests.no_such:app"], ["module 'tests.no_such' was not found in", "--app-dir"]),
        ([f"{APPS}:no_such"], [f"module '{APPS}' has no attribute 'no_such'", "it has: "]),
        ([f"{APPS}:ecko"], [f"module '{APPS}' has no attribute 'ecko'", f"did you mean {APPS}:echo?"]),
        ([f"{APPS}:make_echo()"], [f"'{APPS}:make_echo()' was given", f"use --factory {APPS}:make_echo"]),
        ([f"{APPS}:echo.no_such"], ["has no attribute 'echo.no_such'"]),
        ([f"{APPS}:NOT_CALLABLE"], ["is int", "allowed: an ASGI application"]),
        ([f"{APPS}:NOT_CALLABLE", "--factory"], ["is int", "allowed: an ASGI application"]),
        (
            [f"{APPS}:make_nothing", "--factory"],
            ["what factory", "returned is NoneType", "allowed: an ASGI application"],
        ),
        ([ECHO, "more:app"], ["'more:app' was given", "allowed: one module:attribute"]),
        ([ECHO, "--prot", "1"], ["no option --prot", "did you mean --port?"]),
        ([ECHO, "--ws-max-sise=1"], ["no option --ws-max-sise;", "did you mean --ws-max-size?"]),
        ([ECHO, "--no-acess-log"], ["no option --no-acess-log", "did you mean --no-access-log?"]),
        ([ECHO, "--verbose"], ["no option --verbose", "use --log-level debug"]),
        ([ECHO, "--ws", "websockets"], ["no option --ws;", "leave it out: WebSocket is built in"]),
        ([ECHO, "--http=h11"], ["no option --http;", "leave it out: there is one HTTP parser"]),
        ([ECHO, "--interface", "asgi2"], ["no option --interface;", "leave it out: applications are ASGI 3"]),
        ([ECHO, "-w", "4"], ["no option -w;", "use --workers"]),
        (["-w4", ECHO], ["no option -w4;", "use --workers"]),
        (["-b", ":80", ECHO], ["no option -b;", "use --bind"]),
        (["-k", "uvicorn.workers.UvicornWorker", ECHO], ["no option -k;", "leave it out: there is one kind of worker"]),
        ([ECHO, "--workers", "many"], ["--workers: 'many' was given, allowed: a number such as 32, or auto"]),
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
    execute_here: RunCommand, arguments: list[str], said: list[str]
) -> None:
    """What cannot be run is refused before it is tried (cli.py: exit codes)."""
    assert_one_line(execute_here(*arguments), 2, *said)


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
        ("--loop", "uvlop", "--loop: 'uvlop' was given, allowed: auto, asyncio, uvloop, module:factory (did you mean"),
        ("--ws-per-message-deflate", "maybe", "--compression: 'maybe' was given, allowed: shared, dedicated, off"),
        ("--header", "nonsense", "--header: 'nonsense' was given, allowed: Name: value, without line ends"),
        ("--header", "a: b\r\nc: d", "--header: 'a: b\\r\\nc: d' was given, allowed: Name: value, without line ends"),
        ("--allowed-origins", "x", "--allowed-origins: 'x' was given, allowed: an origin such as https://example.com"),
        ("--shutdown-code", "1005", "--shutdown-code: 1005 was given, allowed: 1000-1003, 1007-1014, 3000-4999"),
        (
            "--drain-spread",
            "1h",
            "--drain-spread: 3600 s was given, allowed: at most --graceful-timeout, which is 30 s",
        ),
    ],
)
def test_bad_value_is_one_line_and_exit_code_2(execute_here: RunCommand, flag: str, value: str, said: str) -> None:
    """One value of each kind that the option does not take."""
    assert_one_line(execute_here(ECHO, f"{flag}={value}"), 2, said)


def test_bad_value_of_a_variable_names_the_variable(execute_here: RunCommand) -> None:
    """Who set it has to find it."""
    ended = execute_here(ECHO, environ={"ASGIWS_PORT": "http"})
    assert_one_line(ended, 2, "ASGIWS_PORT, --port: 'http' was given, allowed: a number such as 32")
    ended = execute_here(ECHO, environ={"ASGIWS_ACCESS_LOG": "maybe"})
    assert_one_line(ended, 2, "ASGIWS_ACCESS_LOG, --access-log: 'maybe' was given, allowed: true or false")


def test_port_in_use_is_one_line_and_exit_code_1(run_command: RunCommand) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run_command(ECHO, "--port", str(port), "--lifespan", "off")
    assert_one_line(ended, 1, f"cannot listen on 127.0.0.1 port {port}: Address already in use", "--host and --port")


def test_host_of_another_machine_is_one_line_and_exit_code_1(run_command: RunCommand) -> None:
    """RFC 5737 §3: 203.0.113.0/24 is for documentation, so no machine has it."""
    ended = run_command(ECHO, "--host", "203.0.113.1", "--port", "0", "--lifespan", "off")
    assert_one_line(
        ended, 1, "cannot listen on 203.0.113.1 port 0: Cannot assign requested address; choose an address of this ",
        "machine with --host: 127.0.0.1 for clients on it, 0.0.0.0 for all clients",
    )  # fmt: skip


@pytest.mark.parametrize("host", ["a..b", "x" * 64], ids=["empty-label", "long-label"])
def test_host_that_is_no_name_is_one_line_and_exit_code_1(run_command: RunCommand, host: str) -> None:
    """Python's resolver raises something else for these than for an unknown name."""
    ended = run_command(ECHO, "--host", host, "--port", "0", "--lifespan", "off")
    assert_one_line(ended, 1, f"--host: {host!r} is no address of this machine")


def test_startup_that_failed_is_its_message_and_exit_code_3(run_command: RunCommand) -> None:
    """ASGI lifespan.startup.failed, and its message without its line end."""
    ended = run_command(f"{APPS}:startup_fails", "--port", "0")
    assert ended.stderr == ["asgiws: application startup failed: no database", "    at all"]
    assert ended.code == 3


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
    execute_here: RunCommand, tmp_path: Path, source: str, last: str
) -> None:
    """The traceback begins with the application's first frame, because the fault is there."""
    module = tmp_path / "broken.py"
    module.write_text(source)
    (tmp_path / "helper.py").write_text("import missing_dependency\n")
    (tmp_path / "helper2.py").write_text("")
    ended = execute_here("broken:app", folder=tmp_path)
    assert ended.code == 1
    files = traceback_files(ended.stderr)
    assert files[0] == str(module)
    assert [file for file in files if Path(file).parent != tmp_path] == []
    assert ended.stderr[-2].startswith(f"    {last}")
    assert ended.stderr[-1] == "asgiws: application broken:app raised while it was imported, see above"


def test_factory_that_raises_shows_its_traceback(execute_here: RunCommand) -> None:
    ended = execute_here(f"{APPS}:make_failing", "--factory")
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
    assert ended.code == 1
    assert ended.stderr[0].startswith("asgiws: cannot listen on 203.0.113.1")
    assert "not waiting for 1 thread of the application" in ended.stderr[1]


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


@pytest.mark.promise
def test_factory_makes_the_application_once(start: Start) -> None:
    process = start(f"{APPS}:make_echo", "--factory")
    with RawClient(process.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi")
        assert client.read_answer().body == b"hi"
    process.terminate()
    assert process.wait() == 0
    process.rest_of_stdout()
    assert process.stdout.count("factory called") == 1


def test_factory_is_found_and_served_without_its_flag(start: Start) -> None:
    """As uvicorn does; without, each request would be a 500."""
    process = start(f"{APPS}:make_echo")
    with RawClient(process.port) as client:
        assert post(client, b"hi") == b"hi"
    assert f"{APPS}:make_echo can be called without arguments: used as a factory" in "\n".join(process.stderr)


def test_workers_auto_is_one_for_each_cpu_and_the_start_line_has_their_number(start: Start) -> None:
    process = start(f"{APPS}:echo", "--workers", "auto", wait_ready=False)
    line = process.wait_stderr("listening on .* with [0-9]+ workers")
    assert f"with {usable_cpus()} workers" in line


def test_application_can_come_from_the_environment(start: Start) -> None:
    start(environ={"ASGIWS_APP": f"{APPS}:facts"})


def test_application_can_be_a_nested_attribute(start: Start, tmp_path: Path) -> None:
    (tmp_path / "nested.py").write_text(f"from {APPS} import facts\nclass Site:\n    app = staticmethod(facts)\n")
    start("nested:Site.app", folder=tmp_path)


# ---- options


def test_process_ends_with_the_exit_code_of_a_usage_error(run_command: RunCommand) -> None:
    assert_one_line(run_command(ECHO, "--port", "x"), 2, "--port: 'x' was given")


def test_version_is_that_of_the_package(run_command: RunCommand) -> None:
    ended = run_command("--version")
    assert (ended.code, ended.stdout, ended.stderr) == (0, [f"asgiws {asgiws.__version__}"], [])


def test_version_and_verbose_shows_what_the_server_runs_on(execute_here: RunCommand) -> None:
    ended = execute_here("--version", "--verbose")
    rows = dict(line.split(maxsplit=1) for line in ended.stdout)
    assert (ended.code, ended.stderr) == (0, [])
    assert rows["asgiws"] == asgiws.__version__
    assert rows["Python"].startswith(platform.python_version())
    assert rows["unmasking"] == "C module" or "reinstall with a C compiler" in rows["unmasking"]
    assert rows["compression"] == str(deflate_engines.IN_USE)
    assert rows["uvloop"] == importlib.metadata.version("uvloop")


WITHOUT_C = "import sys; sys.modules['asgiws.protocol.websocket._masking'] = None; "


MISSING_C = "the C module is not built"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--version", "--verbose"], 1),
        (["--port", "0", "shop:app"], 1),
        (["--port", "0", "--workers", "1", "shop:app"], 1),
        (["--port", "0", "nothing:app"], 0),
    ],
    ids=["version", "one process", "workers", "refused"],
)
def test_missing_c_module_is_said_by_version_and_where_it_listens(
    tmp_path: Path, arguments: list[str], said: int
) -> None:
    """An installation without a compiler succeeds silently; a command that is refused prints one line as ever."""
    (tmp_path / "told.py").write_text(f"{WITHOUT_C}from asgiws.cli import main; sys.exit(main(sys.argv[1:]))")
    (tmp_path / "shop.py").write_text("async def app(scope, receive, send):\n    raise ValueError\n")
    with subprocess.Popen(
        [sys.executable, "told.py", *arguments], cwd=tmp_path, env=clean_environ() | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if MISSING_C in line and "shop:app" in arguments:
                assert "listening on" in lines[-2]
                process.terminate()
    assert "".join(lines).count(MISSING_C) == said
    assert said or len(lines) == 1


def test_help_is_one_screen_of_the_common_options(execute_here: RunCommand) -> None:
    """For a terminal of 80 columns; no option that is not in the table, and those of a first day are there."""
    ended = execute_here("--help")
    assert (ended.code, ended.stderr) == (0, [])
    assert len(ended.stdout) <= 46
    assert max(map(len, ended.stdout)) <= 80
    listed = flags_in(ended.stdout)
    assert listed < flags_in(execute_here("--help", "all").stdout)
    assert listed >= {"--host", "--port", "--workers", "--reload", "--log-level", "--factory", "--ssl-certfile"}


def test_help_all_lists_every_option(execute_here: RunCommand) -> None:
    """Each flag and each other spelling of it, with its default, and nothing else that begins with two dashes."""
    ended = execute_here("-h", "all")
    assert (ended.code, ended.stderr) == (0, [])
    assert max(map(len, ended.stdout)) <= 80
    allowed = {"--help", "--version", "--config", "--check-config"}
    for name, option in OPTIONS.items():
        for flag in (spelled(name), *(f"--{alias}" for alias in option.aliases)):
            allowed |= {flag, f"--no-{flag[2:]}"} if option.negatable else {flag}
    assert flags_in(ended.stdout) == allowed
    assert " ".join(ended.stdout).count("]") >= len(OPTIONS)


def flags_in(lines: list[str]) -> set[str]:
    """The flags that a help text explains, with `--[no-]x` as two."""
    listed = set()
    for line in lines:
        if line.startswith("  -"):
            left = re.split(r"\s{2,}", line.strip())[0]
            for no, flag in re.findall(r"--(\[no-\])?([a-z0-9-]+)", left):
                listed |= {f"--{flag}", f"--no-{flag}"} if no else {f"--{flag}"}
    return listed


@pytest.mark.parametrize("arguments", [["--help", "all"], [ECHO, "--check-config"]], ids=["help", "check"])
def test_reader_that_has_read_enough_is_no_error(arguments: list[str]) -> None:
    """`asgiws --help all | head`, or a pager that is quit."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stdout:
        ended = subprocess.run(
            [sys.executable, "-m", "asgiws", *arguments], env=clean_environ(), cwd=ROOT, stdout=stdout,
            stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")


def test_units_of_numbers_are_in_the_help(execute_here: RunCommand) -> None:
    text = "\n".join(execute_here("--help", "all").stdout)
    for shown in ("--port PORT", "--close-timeout SECONDS", "--max-message-size, --ws-max-size SIZE", "9..15", "FILE"):
        assert shown in text
    assert "COUNT" not in re.findall(r"--port.*", text)[0]


@pytest.mark.parametrize("text", [instead_of(flag) for flag in FLAGS_OF_OTHERS])
def test_what_is_named_instead_of_a_flag_of_another_server_exists(text: str) -> None:
    taken = set(make_parser()._option_string_actions)
    assert set(re.findall(r"--[a-z0-9-]+", text)) <= taken


def test_no_flag_of_another_server_that_has_a_hint_is_an_option() -> None:
    assert set(FLAGS_OF_OTHERS) & set(make_parser()._option_string_actions) <= {"--verbose"}


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
    """With or without spaces after them."""
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
