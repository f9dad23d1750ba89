"""Who may see and close connections at the admin address, and who may not."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.admin.helpers import BEARER, TOKEN, Admin, open_one, outer_address
from tests.raw import RawClient, handshake, text
from tests.server_process import APPS, Ended, RunCommand, Start

ECHO = "tests.apps:echo"
TCP = ("--admin", "127.0.0.1:0")
WRONG = "Authorization: Bearer 0123456789abcdef-another"
STRANGER = "Origin: https://stranger.example"


@pytest.fixture
def unix(tmp_path: Path) -> tuple[str, ...]:
    return ("--admin", f"unix:{tmp_path}/admin.sock")


# ---- closing


@pytest.mark.promise
@pytest.mark.parametrize("workers", ["0", "2"])
def test_connection_is_closed_through_the_unix_socket(start: Start, unix: tuple[str, ...], workers: str) -> None:
    process = start(ECHO, *unix, "--workers", workers)
    admin = Admin(process)
    client, identity = open_one(process, admin)
    with client:
        answer = admin.close(identity, "?code=4001")

        assert (answer.status, answer.body) == (200, f"closed {identity} with 4001\n".encode())
        assert client.read_close() == (4001, "closed by the operator")
    assert process.wait_stderr("closed 4001 by admin")


@pytest.mark.promise
def test_connection_is_closed_by_who_has_the_token(start: Start) -> None:
    process = start(ECHO, *TCP, environ={"ASGIWS_ADMIN_TOKEN": TOKEN})
    admin = Admin(process)
    client, identity = open_one(process, admin, BEARER)
    with client:
        assert admin.close(identity, "", BEARER).status == 200
        assert client.read_close()[0] == 1000


@pytest.mark.promise
def test_connection_is_not_closed_over_tcp_without_a_token(start: Start) -> None:
    process = start(ECHO, *TCP)
    admin = Admin(process)
    client, identity = open_one(process, admin)
    with client:
        answer = admin.close(identity)
        assert answer.status == 403
        assert answer.body == (
            b"closing connections is not allowed from there: set --admin-token, or use --admin unix:/path\n"
        )
        client.send(text("still here"))
        assert client.read_text() == "still here"


@pytest.mark.parametrize("code", ["", "999", "1004", "1005", "1006", "1015", "2999", "5000", "4000.0", "x", "04000"])
def test_code_that_no_close_frame_may_have_is_refused(start: Start, unix: tuple[str, ...], code: str) -> None:
    process = start(ECHO, *unix)
    answer = Admin(process).close("1-1", f"?code={code}")

    assert answer.status == 400
    assert answer.body.endswith(b"allowed: 1000-1003, 1007-1014, 3000-4999\n")


def test_two_codes_are_refused(start: Start, unix: tuple[str, ...]) -> None:
    assert Admin(start(ECHO, *unix)).close("1-1", "?code=4000&code=4001").status == 400


@pytest.mark.parametrize("workers", ["0", "1"])
def test_connection_that_is_not_there_is_not_found(start: Start, unix: tuple[str, ...], workers: str) -> None:
    process = start(ECHO, *unix, "--workers", workers)
    admin = Admin(process)
    pid = admin.status()["workers"][0]["pid"]

    for identity in (f"{pid}-99", "1-1"):
        answer = admin.close(identity)
        assert (answer.status, answer.body) == (404, f"no open connection {identity}\n".encode())


def test_closing_takes_post(start: Start, unix: tuple[str, ...]) -> None:
    """A link or an image of a page is a GET."""
    answer = Admin(start(ECHO, *unix)).ask("/connections/1-1/close")
    assert (answer.status, answer.header(b"allow")) == (405, b"POST")


def test_worker_that_blocks_gives_a_timeout_and_not_a_hanging_request(start: Start, unix: tuple[str, ...]) -> None:
    process = start(f"{APPS}:blocking", *unix, "--workers", "1", "--graceful-timeout", "0.2")
    admin = Admin(process)
    with RawClient(process.port) as client:
        client.send(handshake())
        process.wait_stdout("blocking")
        pid = admin.status()["workers"][0]["pid"]
        try:
            assert admin.close(f"{pid}-1").status == 504
        finally:
            os.kill(pid, signal.SIGKILL)  # nobody ends it sooner when its supervisor is killed


# ---- the token


@pytest.mark.parametrize("field", [WRONG, "Authorization: Bearer", f"Authorization: Basic {TOKEN}", f"{BEARER}x"])
@pytest.mark.parametrize("path", ["/status", "/metrics", "/"])
def test_wrong_token_gets_401_and_is_counted(start: Start, field: str, path: str) -> None:
    admin = Admin(start(ECHO, *TCP, "--admin-token", TOKEN))
    answer = admin.ask(path, field)

    assert (answer.status, answer.body) == (401, b"wrong token\n")
    assert answer.header(b"www-authenticate") == b"Bearer"
    assert admin.samples()["asgiws_admin_denials_total", ()] == 1


def test_wrong_token_closes_nothing_on_a_unix_socket_either(start: Start, unix: tuple[str, ...]) -> None:
    process = start(ECHO, *unix, "--admin-token", TOKEN)
    admin = Admin(process)
    client, identity = open_one(process, admin)
    with client:
        assert admin.close(identity, "", WRONG).status == 401
        client.send(text("still here"))
        assert client.read_text() == "still here"


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_health_does_not_look_at_the_token(start: Start, path: str) -> None:
    """An orchestrator with an old token must not restart the server."""
    admin = Admin(start(ECHO, *TCP, "--admin-token", TOKEN))
    assert admin.ask(path, WRONG).status == 200


def test_status_needs_the_token_where_there_is_one(start: Start) -> None:
    admin = Admin(start(ECHO, *TCP, "--admin-token", TOKEN))
    assert admin.ask("/status").status == 401
    assert admin.ask("/status", BEARER).status == 200


def test_token_is_in_no_log_line_and_not_in_the_list_of_processes(start: Start) -> None:
    process = start(ECHO, *TCP, "--workers", "1", "--log-level", "debug", environ={"ASGIWS_ADMIN_TOKEN": TOKEN})
    admin = Admin(process)
    admin.ask("/status", WRONG)
    assert TOKEN not in "".join([*process.stderr, *process.rest_of_stderr()])
    worker = admin.status(BEARER)["workers"][0]["pid"]
    assert TOKEN not in Path(f"/proc/{worker}/cmdline").read_text()


# ---- pages of strangers


@pytest.mark.parametrize("field", [STRANGER, "Origin: null", "Origin: http://localhost.stranger.example"])
def test_page_of_a_stranger_sees_and_closes_nothing(start: Start, unix: tuple[str, ...], field: str) -> None:
    """A socket that is forwarded to a local port, as by ssh -L, is in reach of every page that the operator opens."""
    process = start(ECHO, *unix)
    admin = Admin(process)
    client, identity = open_one(process, admin)
    with client:
        assert admin.close(identity, "", field).status == 403
        assert admin.ask("/status", field).status == 403
        client.send(text("still here"))
        assert client.read_text() == "still here"


def test_page_of_its_own_origin_may(start: Start, unix: tuple[str, ...]) -> None:
    admin = Admin(start(ECHO, *unix))
    assert admin.ask("/status", "Origin: http://localhost:9100", host="localhost:9100").status == 200


@pytest.mark.parametrize("host", ["rebound.example", "rebound.example:9100", "127.0.0.1.example", "", "[::1"])
def test_name_that_a_stranger_points_at_us_shows_nothing(start: Start, host: str) -> None:
    """DNS rebinding: to the browser it is one origin, the stranger's."""
    admin = Admin(start(ECHO, *TCP))
    assert admin.ask("/status", host=host).status in (400, 403)
    assert admin.ask("/readyz", host=host or "a").status in (200, 400)


@pytest.mark.parametrize("host", ["127.0.0.1:9100", "[::1]:9100", "localhost", "LOCALHOST:1", "my.localhost"])
def test_names_that_are_ours_show_the_status(start: Start, host: str) -> None:
    assert Admin(start(ECHO, *TCP)).ask("/status", host=host).status == 200


def test_loopback_of_ipv6_is_this_machine(start: Start) -> None:
    port = Admin(start(ECHO, "--admin", "[::1]:0")).port
    with RawClient(port, host="::1") as client:
        client.send(f"GET /status HTTP/1.1\r\nHost: [::1]:{port}\r\n\r\n".encode())
        assert client.read_answer().status == 200


def test_address_that_is_not_of_this_machine_alone_shows_no_clients_without_a_token(start: Start) -> None:
    """Metrics and health yes, clients and paths no."""
    name = outer_address()
    process = start(ECHO, "--admin", "0.0.0.0:0")
    port = Admin(process).port
    for path, status in (("/status", 403), ("/metrics", 200), ("/readyz", 200)):
        with RawClient(port, host=name) as client:
            client.send(f"GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
            assert client.read_answer().status == status


# ---- the live view's WebSocket


def test_live_view_pushes_the_status(start: Start, unix: tuple[str, ...]) -> None:
    admin = Admin(start(ECHO, *unix))
    with admin.connect() as client:
        client.open_websocket("/live")
        first, second = json.loads(client.read_text()), json.loads(client.read_text())
    assert first["ready"] is True
    assert second["workers"][0]["up_s"] > first["workers"][0]["up_s"]
    assert first["may_close"] is True


def test_page_of_a_stranger_gets_no_live_view(start: Start) -> None:
    admin = Admin(start(ECHO, *TCP))
    with admin.connect() as client:
        client.send(handshake("/live", STRANGER))
        assert client.read_answer().status == 403


def test_live_view_takes_the_token_as_its_first_message(start: Start) -> None:
    """A page cannot send it with its handshake."""
    admin = Admin(start(ECHO, *TCP, "--admin-token", TOKEN))
    with admin.connect() as client:
        client.open_websocket("/live")
        assert client.read_text() == '{"wants": "token"}'
        client.send(text(TOKEN))
        assert '"may_close": true' in client.read_text()
    with admin.connect() as client:
        client.open_websocket("/live")
        assert client.read_text() == '{"wants": "token"}'
        client.send(text("a guess"))
        assert client.read_close() == (4401, "wrong token")
    with admin.connect() as client:
        client.send(handshake("/live", WRONG))
        assert client.read_answer().status == 401
    assert admin.samples()["asgiws_admin_denials_total", ()] == 2


# ---- the address itself


def test_socket_is_its_owners(start: Start, unix: tuple[str, ...], tmp_path: Path) -> None:
    start(ECHO, *unix, "--uds-mode", "666")
    assert (tmp_path / "admin.sock").stat().st_mode & 0o777 == 0o600


def test_socket_is_removed_at_the_end(start: Start, unix: tuple[str, ...], tmp_path: Path) -> None:
    process = start(ECHO, *unix, "--workers", "1")
    process.terminate()
    assert process.wait() == 0
    assert not (tmp_path / "admin.sock").exists()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_admin_address_that_is_taken_is_one_line(start: Start, run_command: RunCommand, workers: str) -> None:
    taken = start(ECHO).port
    ended: Ended = run_command(ECHO, "--port", "0", "--admin", f"127.0.0.1:{taken}", "--workers", workers)

    assert ended.code == 1
    assert ended.stderr[-1] == (
        f"asgiws: cannot listen on 127.0.0.1 port {taken}: Address already in use; choose another with --admin, or "
        "stop what has it"
    )


def test_admin_address_that_is_taken_leaves_no_socket_file(
    start: Start, run_command: RunCommand, tmp_path: Path
) -> None:
    taken = start(ECHO).port
    socket_file = tmp_path / "app.sock"
    admin = ("--admin", f"127.0.0.1:{taken}")
    assert run_command(ECHO, "--uds", str(socket_file), *admin, "--workers", "1").code == 1
    assert not socket_file.exists()


def test_unknown_path_names_the_known_ones(start: Start) -> None:
    answer = Admin(start(ECHO, *TCP)).ask("/metric")
    assert answer.status == 404
    assert b"/metrics" in answer.body


def test_page_runs_nothing_but_its_own_script(start: Start) -> None:
    policy = (Admin(start(ECHO, *TCP)).ask("/").header(b"content-security-policy") or b"").decode()
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert "frame-ancestors 'none'" in policy


# ---- a rolling restart


def test_token_is_another_one_from_the_hangup_on(start: Start, tmp_path: Path) -> None:
    """Who has the one before sees nothing any more, also when the new workers do not start."""
    options = tmp_path / "site.toml"
    options.write_text(f'app = "{ECHO}"\nadmin_token = "{TOKEN}"\n')
    process = start(*TCP, "--workers", "1", "--config", str(options))
    admin = Admin(process)
    assert admin.ask("/status", BEARER).status == 200

    options.write_text(f'app = "{ECHO}"\nadmin_token = "{WRONG.split()[-1]}"\n')
    process.signal(signal.SIGHUP)
    process.wait_stderr("rolling restart done")
    assert admin.ask("/status", BEARER).status == 401
    assert admin.ask("/status", WRONG).status == 200

    options.write_text("nonsense")
    process.signal(signal.SIGHUP)
    process.wait_stderr("options stay as they were")
    assert admin.ask("/status", BEARER).status == 401
    assert not any("stays as it was" in line for line in process.stderr + process.rest_of_stderr())


def test_options_that_the_supervisor_keeps_are_named(start: Start, tmp_path: Path) -> None:
    """And the admin address that is there goes on telling of the new workers."""
    options = tmp_path / "site.toml"
    options.write_text(f'app = "{ECHO}"\nadmin = "127.0.0.1:0"\n')
    process = start("--workers", "1", "--config", str(options))
    admin = Admin(process)

    options.write_text(f'app = "{ECHO}"\nbind = ["127.0.0.1:0"]\nlog_format = "json"\nidle_timeout = 60\n')
    process.signal(signal.SIGHUP)
    line = process.wait_stderr("until the server is restarted")
    assert line.endswith(
        "--admin, --log-format, --bind: the supervisor keeps the old value until the server is restarted"
    )
    process.wait_stderr("rolling restart done")
    client, _ = open_one(process, admin)
    client.socket.close()
