"""Options from flags, environment and files, as a process has them: what it serves with and what it prints."""

from __future__ import annotations

import signal
import socket
import tomllib
from pathlib import Path

import pytest

from asgiws.config.options import OPTIONS
from tests.config.test_cli import ECHO
from tests.raw import Answer, RawClient
from tests.server_process import APPS, Ended, RunCommand, ServerProcess, Start, assert_one_line

SHOW_VARIABLES = """
import os
from tests.runner.apps import answer

SITE = os.environ.get("SITE", "none")  # as settings modules do: when the module is imported

async def app(scope, receive, send):
    if scope["type"] == "http":
        await answer(send, SITE.encode())
"""


def get(process: ServerProcess) -> Answer:
    with RawClient(process.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return client.read_answer()


def options_of(ended: Ended) -> dict[str, object]:
    """The options that --check-config printed."""
    assert ended.code == 0, ended.stderr
    return tomllib.loads("\n".join(ended.stdout))


# ---- layers


@pytest.mark.promise
def test_server_serves_with_the_options_of_each_layer(start: Start, tmp_path: Path) -> None:
    """Flag before environment before file: each of three options is set once more in the layer below."""
    (tmp_path / "site.toml").write_text(
        f'app = "{APPS}:facts"\nroot_path = "/file"\nheader = ["X-From: file"]\nserver_header = false\n'
    )
    process = start(
        "--config", "site.toml", "--root-path", "/flag",
        environ={"ASGIWS_ROOT_PATH": "/environment", "ASGIWS_HEADER": "X-From: environment"}, folder=tmp_path,
    )  # fmt: skip
    answer = get(process)
    facts = answer.json()
    assert isinstance(facts, list)
    assert facts[0] == "/flag"
    assert answer.header(b"x-from") == b"environment"
    assert answer.header(b"server") is None
    process.terminate()
    assert process.wait() == 0


def test_pyproject_of_the_current_folder_is_served(start: Start, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        f'[project]\nname = "site"\n[tool.asgiws]\napp = "{APPS}:facts"\nheader = ["X-From: pyproject"]\n'
    )
    assert get(start(folder=tmp_path)).header(b"x-from") == b"pyproject"


def test_file_can_be_named_in_the_environment(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(f'app = "{APPS}:facts"\nheader = ["X-From: file"]\n')
    assert get(start(environ={"ASGIWS_CONFIG": str(file)})).header(b"x-from") == b"file"


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("max_conections = 1", "max_conections in site.toml: there is no such option; did you mean max_connections?"),
        ("ping_interval = '5 parsecs'", "ping_interval in site.toml, --ping-interval: '5 parsecs' was given, allo"),
        ("port = [", "--config: 'site.toml' is not a TOML file: "),
    ],
)  # fmt: skip
def test_fault_of_a_file_is_one_line_and_exit_code_2(
    execute_here: RunCommand, tmp_path: Path, toml: str, said: str
) -> None:
    (tmp_path / "site.toml").write_text(toml)
    assert_one_line(execute_here(ECHO, "--config", "site.toml", folder=tmp_path), 2, said)


def test_file_that_is_not_there_is_one_line_and_exit_code_2(execute_here: RunCommand) -> None:
    ended = execute_here(ECHO, "--config", "no-such.toml")
    assert_one_line(ended, 2, "--config: cannot read 'no-such.toml': No such file or directory")


def test_unknown_variable_is_a_warning_and_the_server_serves(start: Start) -> None:
    process = start(f"{APPS}:facts", environ={"ASGIWS_MAX_CONECTIONS": "1"})
    assert get(process).status == 200
    assert process.stderr[0] == (
        "asgiws: environment ASGIWS_MAX_CONECTIONS is not used: there is no such option; "
        "did you mean ASGIWS_MAX_CONNECTIONS?"
    )


@pytest.mark.parametrize(
    ("arguments", "size", "deadline"),
    [
        (["--max-message-size", "64k", "--close-timeout", "30s"], 65536, 30),
        (["--max-message-size", "16MiB", "--close-timeout", "5m"], 16 * 2**20, 300),
        (["--ws-max-size", "1000", "--close-timeout", "500ms"], 1000, 0.5),
    ],
)
def test_sizes_and_durations_take_units(
    execute_here: RunCommand, arguments: list[str], size: int, deadline: float
) -> None:
    options = options_of(execute_here(ECHO, "--check-config", *arguments))
    assert (options["max_message_size"], options["close_timeout"]) == (size, deadline)


def test_variable_of_other_servers_is_taken_after_ours(execute_here: RunCommand) -> None:
    """WEB_CONCURRENCY, which platforms set, is the number of workers."""
    platform = {"WEB_CONCURRENCY": "3"}
    assert options_of(execute_here(ECHO, "--check-config", environ=platform))["workers"] == 3
    assert options_of(execute_here(ECHO, "--check-config", environ=platform | {"ASGIWS_WORKERS": "2"}))["workers"] == 2
    assert_one_line(
        execute_here(ECHO, environ={"WEB_CONCURRENCY": "x"}), 2, "environment WEB_CONCURRENCY, --workers: 'x'"
    )


# ---- --check-config


def test_check_prints_every_option_with_its_origin_and_serves_nothing(execute_here: RunCommand, tmp_path: Path) -> None:
    """One of each layer, in the order of the table."""
    (tmp_path / "site.toml").write_text("backlog = 16\nport = 1\n")
    (tmp_path / "site.env").write_text("ASGIWS_CLOSE_TIMEOUT=3\n")
    (tmp_path / "shop.py").write_text("print('imported')\napp = print\n")
    ended = execute_here(
        "shop:app", "--check-config", "--config", "site.toml", "--env-file", "site.env", "--max-queue", "5",
        environ={"ASGIWS_PORT": "9000"}, folder=tmp_path,
    )  # fmt: skip
    assert ended.stderr == []
    assert ended.stdout.pop() == "imported"
    assert list(options_of(ended)) == ["app", *OPTIONS]
    rows = {
        tuple(line.split("  # ")) for line in (" ".join(line.split()).replace(" # ", "  # ") for line in ended.stdout)
    }
    assert rows >= {
        ('app = "shop:app"', "argument"),
        ('host = "127.0.0.1"', "default"),
        ("port = 9000", "environment ASGIWS_PORT"),
        ("backlog = 16", "backlog in site.toml"),
        ("close_timeout = 3.0", "ASGIWS_CLOSE_TIMEOUT in env file site.env"),
        ("max_queue = 5", "flag --max-queue"),
    }


def test_origin_of_a_flag_is_what_was_typed(execute_here: RunCommand) -> None:
    """In each spelling; the last one if there are several. What follows `--` is no flag."""
    ended = execute_here(
        "--check-config", "--max-queue", "1", "--ws-max-queue", "2", "--ws-max-size=3", "--no-access-log",
        "--log-level", "debug", "--", ECHO,
    )  # fmt: skip
    assert ended.code == 0
    lines = {tuple(part.strip() for part in line.split("  # ")) for line in ended.stdout if "# flag " in line}
    assert lines == {
        ("max_queue = 2", "flag --ws-max-queue"),
        ("max_message_size = 3", "flag --ws-max-size"),
        ("access_log = false", "flag --no-access-log"),
        ('log_level = "debug"', "flag --log-level"),
    }


def test_what_check_prints_is_a_file_that_gives_the_same(execute_here: RunCommand, tmp_path: Path) -> None:
    first = execute_here(
        ECHO, "--check-config", "--port", "1", "--header", "A: \xe9", "--ping-interval", "1.5", folder=tmp_path
    )
    (tmp_path / "printed.toml").write_text("\n".join(first.stdout))
    second = execute_here("--check-config", "--config", "printed.toml", folder=tmp_path)
    assert options_of(first) == options_of(second)
    assert {line.rpartition("  # ")[2] for line in second.stdout} == {
        f"{name} in printed.toml" for name in ("app", *OPTIONS)
    }


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        ([ECHO, "--ssl-certfile", "/nowhere/cert.pem"], 1),
        ([ECHO, "--ssl-certfile", "/nowhere/cert.pem", "--ssl-ciphers", "none-such"], 1),
        ([ECHO, "--reload", "--reload-dir", "/nowhere"], 2),
        ([ECHO, "--uds", "{folder}/a", "--uds-owner", "nobodyx"], 1),
        ([ECHO, "--host", "nowhere.invalid"], 1),
        ([ECHO, "--bind", "127.0.0.1:1", "--bind", "127.0.0.1:1"], 1),
        ([ECHO, "--admin", "nowhere.invalid:1"], 1),
        ([ECHO, "--log-file", "/nowhere/log"], 2),
        ([ECHO, "--log-file", "/dev/null/log"], 2),
        ([ECHO, "--log-file", "/"], 2),
    ],
    ids=["app", "certificate", "ciphers", "reload", "owner", "host", "twice", "admin", "no-folder", "null", "folder"],
)
def test_check_ends_as_serving_does(
    run_command: RunCommand, execute_here: RunCommand, tmp_path: Path, arguments: list[str], code: int
) -> None:
    """With the same exit code and the same line."""
    arguments = [word.format(folder=tmp_path) for word in arguments]
    serving, checking = run_command(*arguments, "--lifespan", "off"), execute_here(*arguments, "--check-config")
    assert (serving.code, checking.code) == (code, code)
    assert checking.stderr == serving.stderr
    assert len(checking.stderr) == 1


def test_check_tries_nothing_that_only_serving_can(execute_here: RunCommand) -> None:
    """A port that is taken, a descriptor that only the service manager hands over, and an application's startup."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = execute_here(ECHO, "--check-config", "--bind", f"127.0.0.1:{port}", "--bind", "fd:900")
    assert (ended.code, ended.stderr) == (0, [])
    assert "lifespan.startup" not in ended.stdout


def test_check_makes_no_file(run_command: RunCommand, tmp_path: Path) -> None:
    """Neither that of the log nor a socket; and what the log has stays as it is."""
    (tmp_path / "old.log").write_text("kept")
    (tmp_path / "quiet.py").write_text("import logging\nlogging.getLogger('asgiws').warning('imported')\napp = print\n")
    for name in ("old.log", "new.log"):
        arguments = ("quiet:app", "--check-config", "--uds", "app.sock", "--log-file", name)
        ended = run_command(*arguments, environ={"PYTHONDONTWRITEBYTECODE": "1"}, folder=tmp_path)
        assert options_of(ended)["log_file"] == name
        assert "imported" in ended.stderr[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.log", "quiet.py"]
    assert (tmp_path / "old.log").read_text() == "kept"


def test_check_refuses_what_serving_refuses(execute_here: RunCommand) -> None:
    """With the same line and the same exit code, and the options are printed only when they are allowed."""
    assert_one_line(execute_here(ECHO, "--check-config", "--port", "x"), 2, "--port: 'x' was given")
    ended = execute_here("no_such:app", "--check-config")
    assert ended.code == 2
    assert len(ended.stdout) == len(OPTIONS) + 1
    assert len(ended.stderr) == 1
    assert "module 'no_such' was not found" in ended.stderr[0]


def test_check_imports_the_application_with_its_environment(execute_here: RunCommand, tmp_path: Path) -> None:
    """What it raises is shown as ever."""
    (tmp_path / "site.env").write_text("SITE=berlin\n")
    (tmp_path / "shop.py").write_text("import os\nraise LookupError(os.environ['SITE'])\n")
    ended = execute_here("shop:app", "--check-config", "--env-file", "site.env", folder=tmp_path)
    assert ended.code == 1
    assert ended.stderr[-2:] == [
        "    LookupError: berlin", "asgiws: application shop:app raised while it was imported, see above",
    ]  # fmt: skip


# ---- --env-file


def test_env_file_is_there_before_the_application_is_imported(start: Start, tmp_path: Path) -> None:
    """A variable that is already set takes precedence over the file's."""
    (tmp_path / "shop.py").write_text(SHOW_VARIABLES)
    (tmp_path / "site.env").write_text("# where\nexport SITE='berlin #1'\n")
    arguments = ("shop:app", "--env-file", "site.env", "--lifespan", "off")
    assert get(start(*arguments, folder=tmp_path)).body == b"berlin #1"
    assert get(start(*arguments, folder=tmp_path, environ={"SITE": "paris"})).body == b"paris"


def test_env_file_gives_options_and_the_application(start: Start, tmp_path: Path) -> None:
    (tmp_path / "site.env").write_text(f'ASGIWS_APP={APPS}:facts\nASGIWS_HEADER="X-From: env file"\n')
    process = start(folder=tmp_path, environ={"ASGIWS_ENV_FILE": "site.env"})
    assert get(process).header(b"x-from") == b"env file"


def test_env_file_can_be_named_in_a_file(start: Start, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOW_VARIABLES)
    (tmp_path / "site.env").write_text("SITE=berlin")
    (tmp_path / "site.toml").write_text('app = "shop:app"\nenv_file = "site.env"\nlifespan = "off"\n')
    assert get(start("--config", "site.toml", folder=tmp_path)).body == b"berlin"


def test_bad_line_of_an_env_file_is_one_line_that_does_not_show_it(execute_here: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "site.env").write_text("SITE=1\n\nPASSWORD='hunter2\n")
    ended = execute_here(ECHO, "--env-file", "site.env", folder=tmp_path)
    assert_one_line(
        ended, 2, "--env-file: 'site.env', line 3 is not allowed; allowed: NAME=value, a comment, an empty line"
    )
    assert "hunter2" not in ended.stderr[0]


def test_env_file_that_is_not_there_is_one_line_and_exit_code_2(execute_here: RunCommand) -> None:
    ended = execute_here(ECHO, "--env-file", "no-such.env")
    assert_one_line(ended, 2, "--env-file: cannot read 'no-such.env': No such file or directory")


# ---- read again


def test_rolling_restart_reads_the_files_again(start: Start, tmp_path: Path) -> None:
    """Variables that the env file no longer has are unset, and new ones are set."""
    (tmp_path / "shop.py").write_text(SHOW_VARIABLES)
    (tmp_path / "shop.env").write_text("SITE=berlin")
    (tmp_path / "shop.toml").write_text('app = "shop:app"\nenv_file = "shop.env"\nheader = ["X-From: before"]\n')
    process = start("--config", "shop.toml", "--workers", "1", folder=tmp_path)
    answer = get(process)
    assert (answer.body, answer.header(b"x-from")) == (b"berlin", b"before")

    (tmp_path / "shop.env").write_text("SITE=paris")
    (tmp_path / "shop.toml").write_text(
        'app = "shop:app"\nenv_file = "shop.env"\nheader = ["X-From: after"]\nport = 1\n'
    )
    process.signal(signal.SIGHUP)
    process.wait_stderr("has exited")
    answer = get(process)
    assert (answer.body, answer.header(b"x-from")) == (b"paris", b"after")

    (tmp_path / "shop.env").write_text("ASGIWS_PRT=1")
    process.signal(signal.SIGHUP)
    process.wait_stderr("ASGIWS_PRT in env file shop.env is not used: .* did you mean ASGIWS_PORT")
    process.wait_stderr("has exited")
    assert get(process).body == b"none"


def test_rolling_restart_keeps_the_options_when_the_files_are_wrong(start: Start, tmp_path: Path) -> None:
    (tmp_path / "shop.toml").write_text(f'app = "{APPS}:facts"\nheader = ["X-From: before"]\n')
    process = start("--config", "shop.toml", "--workers", "1", folder=tmp_path)
    (tmp_path / "shop.toml").write_text(f'app = "{APPS}:facts"\nheader = ["X-From: after"]\nmax_qeue = 1\n')
    process.signal(signal.SIGHUP)
    process.wait_stderr(
        "options stay as they were: max_qeue in shop.toml: there is no such option; did you mean max_que"
    )
    process.wait_stderr("rolling restart done")
    assert get(process).header(b"x-from") == b"before"
