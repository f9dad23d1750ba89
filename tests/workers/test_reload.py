"""--reload: the application is started anew when its files change, whatever its clients and the old one do."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from asgiws.config.options import Config
from asgiws.workers.file_watcher import Watched
from tests.raw import RawClient
from tests.server_process import ServerProcess, Start, assert_no_traceback
from tests.workers.crew import lines_of

APP = """
from tests.runner.apps import answer, lifespan, open_websocket
{above}
VERSION = {version!r}

async def app(scope, receive, send):
    if scope["type"] == "http":
        await answer(send, VERSION.encode())
    elif scope["type"] == "websocket":
        await open_websocket(receive, send)
        {then}
    else:
        await lifespan(receive, send)
"""
SLEEP = "import threading; threading.Event().wait()"
DEAF = "import asyncio; await asyncio.Event().wait()"
STUBBORN = """import asyncio
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass"""
TICKING = """import asyncio
        while (await receive())['type'] != 'websocket.disconnect':
            pass
        while True:
            print('tick', flush=True)
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                pass"""
RECEIVE = "while (await receive())['type'] != 'websocket.disconnect': pass"

Edit = Callable[..., None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the application stands."""
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def edit(folder: Path) -> Edit:
    """Write the application, in one step as editors do, with a time of its own."""
    written = 0

    def write(version: str, *, above: str = "", then: str = RECEIVE, name: str = "edited.py") -> None:
        nonlocal written
        written += 1
        path = folder / name
        draft = folder.parent / "draft"
        draft.write_text(APP.format(version=version, above=above, then=then) if name == "edited.py" else version)
        # Sizes may be the same, and a second has many changes: the time tells them apart.
        os.utime(draft, ns=(written * 10**9, written * 10**9))
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(path)

    return write


@pytest.fixture(params=["watchfiles", "poll"])
def environ(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """With watchfiles, and as if it were not installed."""
    if request.param == "watchfiles":
        pytest.importorskip("watchfiles", reason="watchfiles is not installed: pip install -e '.[reload]'")
        return {}
    (tmp_path / "without").mkdir()
    stand_in = 'raise ModuleNotFoundError("No module named watchfiles", name="watchfiles")\n'
    (tmp_path / "without" / "watchfiles.py").write_text(stand_in)
    root = Path(__file__).parents[2]
    return {"PYTHONPATH": f"{tmp_path / 'without'}{os.pathsep}{root}"}


@pytest.fixture
def reloading(start: Start, folder: Path, environ: dict[str, str], edit: Edit) -> Callable[..., ServerProcess]:
    """Start a server that watches the application."""

    def begin(*arguments: str, then: str = RECEIVE) -> ServerProcess:
        edit("one", then=then)
        return start(
            "edited:app", "--reload", "--reload-delay", "0.05", "--app-dir", str(folder), *arguments, environ=environ
        )

    return begin


def version(process: ServerProcess) -> bytes:
    with RawClient(process.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return client.read_answer().body


def wait_started_anew(process: ServerProcess, path: str = "edited.py") -> None:
    process.wait_stderr(rf"changed: .*{path}")
    process.wait_stderr("listening on")


Reloading = Callable[..., ServerProcess]


@pytest.mark.promise
def test_changed_file_is_served(reloading: Reloading, edit: Edit) -> None:
    process = reloading()
    assert version(process) == b"one"
    for expected in ("two", "six", "ten"):  # of the same size: what is compiled must not be taken for them
        edit(expected)
        wait_started_anew(process)
        assert version(process) == expected.encode()
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert_no_traceback(process)


@pytest.mark.promise
def test_open_websocket_gets_1012(reloading: Reloading, edit: Edit) -> None:
    process = reloading()
    with RawClient(process.port) as client:
        client.open_websocket()
        edit("two")
        client.be_closed(1012, "service restart")
    wait_started_anew(process)
    assert version(process) == b"two"


@pytest.mark.parametrize("then", [DEAF, STUBBORN, SLEEP], ids=["deaf", "immortal", "blocked"])
def test_connection_or_application_that_does_not_end_does_not_keep_the_new_code(
    reloading: Reloading, edit: Edit, then: str
) -> None:
    """The client never answers its Close, and the application never ends, or blocks the loop: it is ended."""
    process = reloading("--graceful-timeout", "600", then=then)
    with RawClient(process.port) as client:
        client.open_websocket()
        edit("two")
        wait_started_anew(process)
        assert version(process) == b"two"


def test_application_that_swallows_its_cancellation_is_left_a_moment_and_no_more(
    reloading: Reloading, edit: Edit
) -> None:
    """It counts itself how long: in tenths of a second, of which a slow machine has fewer."""
    process = reloading(then=TICKING)
    with RawClient(process.port) as client:
        client.open_websocket()
        edit("two")
        for _ in ("one", "two"):
            process.wait_stdout("lifespan.startup")
    assert 1 <= process.stdout.count("tick") <= 12


def test_connection_made_meanwhile_is_served_by_the_new_code(reloading: Reloading, edit: Edit, tmp_path: Path) -> None:
    """The socket is the supervisor's: it waits in the backlog."""
    process = reloading()
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    edit("two", above=f"import os; os.read(os.open({str(gate)!r}, os.O_RDONLY), 1)")
    process.wait_stdout("lifespan.shutdown")
    with RawClient(process.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with gate.open("wb") as opened:  # the import goes on when this is opened
            opened.write(b".")
        assert client.read_answer().body == b"two"


def process_folder(process: ServerProcess) -> Path:
    line = next(line for line in process.stderr if "watching " in line)
    return Path(line.partition("watching ")[2])


def test_error_is_shown_and_the_next_change_is_served(reloading: Reloading, edit: Edit) -> None:
    process = reloading()
    edit("two", above="import missing_module")
    process.wait_stderr("ModuleNotFoundError: No module named 'missing_module'")
    process.wait_stderr("worker exited: exit code 1; it is restarted on the next change")
    edit("two", above="this is no Python")
    process.wait_stderr("SyntaxError")
    process.wait_stderr("it is restarted on the next change")
    edit("two")
    wait_started_anew(process)
    assert version(process) == b"two"


def test_server_that_begins_with_an_error_recovers_too(
    start: Start, folder: Path, environ: dict[str, str], edit: Edit
) -> None:
    edit("one", above="1 / 0")
    process = start(
        "edited:app", "--reload", "--reload-delay", "0.05", "--app-dir", str(folder), environ=environ, wait_ready=False
    )
    process.wait_stderr("ZeroDivisionError")
    process.wait_stderr("it is restarted on the next change")
    edit("one")
    process.wait_ready()
    assert version(process) == b"one"


def test_application_that_dies_is_started_on_the_next_change(reloading: Reloading, edit: Edit) -> None:
    process = reloading(then="import os; os.abort()")
    with RawClient(process.port) as client:
        client.open_websocket()
        process.wait_stderr("worker exited: SIGABRT; it is restarted on the next change")
    edit("two")
    wait_started_anew(process)
    assert version(process) == b"two"


def test_only_the_files_of_the_application_count(reloading: Reloading, edit: Edit, folder: Path) -> None:
    """*.py and --reload-include, without hidden folders and --reload-exclude; new and deleted files count."""
    process = reloading("--reload-include", "*.html", "--reload-exclude", "generated", "--reload-exclude", "*_pb2.py")
    for name in ("notes.txt", ".venv/lib/module.py", "generated/module.py", "a_pb2.py", "__pycache__/x.py"):
        edit("nothing", name=name)
    edit("<p>", name="pages/index.html")
    wait_started_anew(process, "pages")
    edit("x = 1", name="package/module.py")
    wait_started_anew(process, "package")
    (folder / "package" / "module.py").unlink()
    wait_started_anew(process, "module.py")
    changes = lines_of(process, "changed: ")
    assert len(changes) == 3
    assert [line for line in changes if "pb2" in line or "venv" in line or "generated" in line or "txt" in line] == []


def test_pattern_with_a_folder_is_for_the_path_below_the_watched_one(reloading: Reloading, edit: Edit) -> None:
    """At any depth, and for all that the folder holds; in one of another name nothing changes."""
    process = reloading(
        "--reload-include", "conf/*.yaml", "--reload-exclude", "gen/*", "--reload-exclude", "./old/api/"
    )
    for name in ("gen/module.py", "lib/gen/deep/module.py", "old/api/module.py", "lib/other.yaml"):
        edit("nothing", name=name)
    for name in ("conf/site.yaml", "lib/conf/site.yaml", "old/module.py", "lib/regen/module.py"):
        edit("x = 1", name=name)
        wait_started_anew(process, name.partition("/")[0])
    changes = lines_of(process, "changed: ")
    assert len(changes) == 4
    assert [line for line in changes if "/gen/" in line or "api" in line or "other" in line] == []


def test_pattern_is_for_the_path_from_the_current_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shell completes; but a folder above it, of whatever name, excludes nothing."""
    project = tmp_path / "gen" / "project"
    (project / "source").mkdir(parents=True)
    monkeypatch.chdir(project)
    watched = Watched(Config(reload_dir=("source",), reload_exclude=("source/old/*", "gen/*", "./project")))
    counting = [
        name for name in ("main.py", "old/main.py", "lib/old/main.py", "gen/main.py")
        if watched.counts(str(project / "source" / name))
    ]  # fmt: skip
    assert counting == ["main.py", "lib/old/main.py"]


def test_folders_that_are_named_are_watched_instead(reloading: Reloading, edit: Edit, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    process = reloading("--reload-dir", str(library))
    assert process_folder(process) == library
    edit("two")
    (library / "module.py").write_text("x = 1")
    wait_started_anew(process, "module.py")
    assert len(lines_of(process, "changed: ")) == 1
    assert version(process) == b"two"


def test_folder_that_goes_away_does_not_end_the_watch(
    reloading: Reloading, edit: Edit, folder: Path, tmp_path: Path
) -> None:
    """As a checkout of another branch does to it."""
    library = tmp_path / "library"
    library.mkdir()
    process = reloading("--reload-dir", str(library), "--reload-dir", str(folder))
    library.rmdir()
    edit("two")
    wait_started_anew(process)
    assert version(process) == b"two"
    assert lines_of(process, "watched no more") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_in_order(start: Start, number: signal.Signals) -> None:
    process = start("tests.runner.apps:echo", "--reload", "--reload-dir", "asgiws/workers")
    process.signal(number)
    assert process.wait() == 0
    process.rest_of_stdout()
    assert process.stdout == ["lifespan.startup", "lifespan.shutdown"]
    assert_no_traceback(process)


def test_hangup_starts_it_anew(start: Start) -> None:
    process = start("tests.runner.apps:echo", "--reload", "--reload-dir", "asgiws/workers")
    process.signal(signal.SIGHUP)
    wait_started_anew(process, "SIGHUP")


def test_log_files_are_opened_again(start: Start, tmp_path: Path) -> None:
    """SIGUSR1, as everywhere."""
    log = tmp_path / "log"
    log.touch()
    arguments = ("tests.runner.apps:facts", "--reload", "--reload-dir", "asgiws/workers", "--log-file", str(log))
    with log.open() as lines:
        process = start(*arguments, wait_ready=False)
        process.wait_stdout("lifespan.startup")
        log.rename(tmp_path / "rotated")
        process.signal(signal.SIGUSR1)
        process.signal(signal.SIGHUP)
        process.wait_stdout("lifespan.shutdown")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert "watching" in lines.read()
    assert "changed: SIGHUP" in log.read_text()


def test_workers_are_one_with_reload(start: Start) -> None:
    process = start("tests.runner.apps:echo", "--reload", "--reload-dir", "asgiws/workers", "--workers", "4")
    assert lines_of(process, "--workers 4 is ignored with --reload, which runs one process") != []


def test_folder_that_does_not_exist_is_one_clear_line(start: Start, tmp_path: Path) -> None:
    process = start("tests.runner.apps:echo", "--reload", "--reload-dir", str(tmp_path / "missing"), wait_ready=False)
    assert process.wait() == 2
    assert process.rest_of_stderr() == [
        f"asgiws: --reload-dir: {str(tmp_path / 'missing')!r} was given, allowed: a folder that exists"
    ]
