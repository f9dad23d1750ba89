"""The files of TLS: each fault is one line before the server listens, and they are replaced while it serves."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from asgiws.config.option import OptionError
from asgiws.config.options import Config
from asgiws.server.tls.expiry import expiry_of
from tests.apps import echo
from tests.conftest import Serve
from tests.raw import text
from tests.server_process import RunCommand, ServerProcess, Start, assert_one_line
from tests.tls.certificates import PASSWORD, Authority, Issued, TLSClient

ECHO = "tests.apps:echo"


@pytest.fixture
def own(authority: Authority, tmp_path: Path) -> Issued:
    """A certificate of localhost whose files the test may change."""
    return authority.issue("localhost", tmp_path)


def shown(port: int, authority: Authority) -> str:
    """The certificate that the server shows."""
    with TLSClient(port, authority.client_context()) as client:
        data = client.socket.getpeercert(binary_form=True)
    assert data is not None
    return ssl.DER_cert_to_PEM_cert(data)


# ---- starting


def test_key_may_stand_in_the_file_of_the_certificate(start: Start, authority: Authority, own: Issued) -> None:
    assert shown(start(ECHO, "--ssl-certfile", str(own.both)).port, authority) == own.pem


def test_encrypted_key_is_taken_with_its_password_from_the_environment(
    start: Start, authority: Authority, own: Issued
) -> None:
    process = start(
        ECHO, "--ssl-certfile", str(own.certificate), "--ssl-keyfile", str(own.encrypted_key()),
        environ={"ASGIWS_SSL_KEYFILE_PASSWORD": PASSWORD},
    )  # fmt: skip
    assert shown(process.port, authority) == own.pem


def test_spellings_of_uvicorn_are_taken(start: Start, authority: Authority, own: Issued, client: Issued) -> None:
    """`--ssl-cert-reqs 2` is ssl.CERT_REQUIRED."""
    process = start(ECHO, *own.flags, "--ssl-cert-reqs", "2", "--ssl-ca-certs", str(authority.file))
    with TLSClient(process.port, authority.client_context(client)) as connection:
        connection.open_websocket()


def refused(run_command: RunCommand, *flags: str, code: int = 1) -> str:
    """The one line with which a server does not start; it never listened."""
    ended = run_command(ECHO, "--port", "0", *flags)
    assert (ended.code, len(ended.stderr), ended.stdout) == (code, 1, []), ended.stderr
    return ended.stderr[0]


@pytest.mark.parametrize("option", ["ssl-certfile", "ssl-keyfile", "ssl-ca-certs"])
def test_missing_file_is_one_line(run_command: RunCommand, authority: Authority, own: Issued, option: str) -> None:
    files = {
        "ssl-certfile": str(own.certificate), "ssl-keyfile": str(own.key), "ssl-ca-certs": str(authority.file),
    } | {option: "no-such.pem"}  # fmt: skip
    flags = [word for name, path in files.items() for word in (f"--{name}", path)]
    line = refused(run_command, *flags, "--ssl-client-cert", "optional")
    assert line == f"asgiws: --{option}: no-such.pem: No such file or directory"


@pytest.mark.parametrize(
    ("option", "what"),
    [("ssl-certfile", "certificate"), ("ssl-keyfile", "private key"), ("ssl-ca-certs", "certificate")],
)
def test_file_without_what_it_is_for_is_one_line(
    run_command: RunCommand, authority: Authority, own: Issued, tmp_path: Path, option: str, what: str
) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n")
    files = {
        "ssl-certfile": str(own.certificate), "ssl-keyfile": str(own.key), "ssl-ca-certs": str(authority.file),
    } | {option: str(empty)}  # fmt: skip
    flags = [word for name, path in files.items() for word in (f"--{name}", path)]
    line = refused(run_command, *flags, "--ssl-client-cert", "optional")
    assert line == f"asgiws: --{option}: {empty} has no {what} in PEM form"


def test_certificate_alone_needs_its_key(run_command: RunCommand, own: Issued) -> None:
    line = refused(run_command, "--ssl-certfile", str(own.certificate))
    assert line == (
        f"asgiws: --ssl-certfile: {own.certificate} has no private key in PEM form; name its file with --ssl-keyfile"
    )


def test_key_of_another_certificate_is_one_line(run_command: RunCommand, own: Issued, server: Issued) -> None:
    line = refused(run_command, "--ssl-certfile", str(own.certificate), "--ssl-keyfile", str(server.key))
    assert line == f"asgiws: --ssl-keyfile: {server.key} is not the key of {own.certificate}"


def test_encrypted_key_without_a_password_does_not_ask_the_terminal(run_command: RunCommand, own: Issued) -> None:
    key = own.encrypted_key()
    line = refused(run_command, "--ssl-certfile", str(own.certificate), "--ssl-keyfile", str(key))
    assert line == f"asgiws: --ssl-keyfile: {key} is encrypted; give its password with --ssl-keyfile-password"


@pytest.mark.parametrize("password", ["guess", "x" * 2000])
def test_wrong_password_is_one_line_without_it(run_command: RunCommand, own: Issued, password: str) -> None:
    key = own.encrypted_key()
    line = refused(
        run_command, "--ssl-certfile", str(own.certificate), "--ssl-keyfile", str(key),
        "--ssl-keyfile-password", password,
    )  # fmt: skip
    assert line.startswith(f"asgiws: --ssl-keyfile: {key}: ")
    assert password not in line


def test_damaged_certificate_is_one_line(run_command: RunCommand, own: Issued) -> None:
    own.certificate.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert refused(run_command, *own.flags).startswith(f"asgiws: --ssl-keyfile: {own.certificate}, {own.key}: ")


def test_unknown_ciphers_are_one_line(run_command: RunCommand, own: Issued) -> None:
    assert refused(run_command, *own.flags, "--ssl-ciphers", "NO-SUCH") == (
        "asgiws: --ssl-ciphers: 'NO-SUCH' names no cipher of TLS 1.2, "
        "allowed: OpenSSL's cipher lists such as ECDHE+AESGCM"
    )


def test_fault_is_found_before_the_application_is_started(run_command: RunCommand) -> None:
    """tests.runner.apps tells of its startup."""
    ended = run_command("tests.runner.apps:echo", "--port", "0", "--ssl-certfile", "no-such.pem")
    assert_one_line(ended, 1, "--ssl-certfile: no-such.pem: No such file or directory")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ["--ssl-keyfile", "a.key"],
            "--ssl-keyfile was given without --ssl-certfile, allowed: together with it",
        ),
        (
            ["--ssl-client-cert", "required"],
            "--ssl-client-cert was given without --ssl-certfile, allowed: together with it",
        ),
        (
            ["--ssl-certfile", "a.pem", "--ssl-client-cert", "required"],
            "--ssl-client-cert required was given without --ssl-ca-certs, "
            "allowed: with the file of the authorities that they come from",
        ),
        (
            ["--ssl-certfile", "a.pem", "--ssl-ca-certs", "b.pem"],
            "--ssl-ca-certs was given but no client certificates are asked for, allowed: with --ssl-client-cert "
            "optional or required; the server's own chain belongs in --ssl-certfile",
        ),
    ],
)
def test_options_that_would_not_be_in_force_are_a_usage_error(
    run_command: RunCommand, flags: list[str], line: str
) -> None:
    assert refused(run_command, *flags, code=2) == f"asgiws: {line}"


def test_password_is_not_shown() -> None:
    config = Config(ssl_certfile="a.pem", ssl_keyfile_password=PASSWORD)
    assert PASSWORD not in repr(config)
    with pytest.raises(OptionError) as raised:
        Config(ssl_keyfile_password=PASSWORD)
    assert PASSWORD not in str(raised.value)


def test_fault_is_one_line_with_workers_too(run_command: RunCommand) -> None:
    line = refused(run_command, "--workers", "2", "--ssl-certfile", "no-such.pem")
    assert line == "asgiws: --ssl-certfile: no-such.pem: No such file or directory"


# ---- replacing the files


def test_replaced_files_are_shown_to_new_connections_and_old_ones_stay(
    start: Start, authority: Authority, own: Issued, server: Issued
) -> None:
    process = start(ECHO, *own.flags)
    with TLSClient(process.port, authority.client_context()) as before:
        before.open_websocket()
        before_pem = own.pem
        own.replace_with(server)
        process.wait_stderr(f"certificates reloaded from {own.certificate}")
        assert shown(process.port, authority) == server.pem != before_pem
        before.send(text("still here"))
        assert before.read_text() == "still here"


@pytest.mark.promise
def test_every_worker_shows_the_replaced_files(start: Start, authority: Authority, own: Issued, server: Issued) -> None:
    process = start(ECHO, "--workers", "2", *own.flags)
    assert process.address.startswith("https://")
    own.replace_with(server)
    for _ in range(2):
        process.wait_stderr("certificates reloaded")
    assert {shown(process.port, authority) for _ in range(20)} == {server.pem}


def test_turned_symbolic_link_is_noticed(start: Start, authority: Authority, server: Issued, tmp_path: Path) -> None:
    """As Kubernetes replaces a mounted secret: all files at once, by turning one link."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    old, new = (authority.issue("localhost", tmp_path / name) for name in ("old", "new"))
    link = tmp_path / "data"
    link.symlink_to("old")
    process = start(ECHO, "--ssl-certfile", str(link / "localhost.pem"), "--ssl-keyfile", str(link / "localhost.key"))
    assert shown(process.port, authority) == old.pem
    (tmp_path / "data.tmp").symlink_to("new")
    os.replace(tmp_path / "data.tmp", link)
    process.wait_stderr("certificates reloaded")
    assert shown(process.port, authority) == new.pem


def errors(process: ServerProcess) -> list[str]:
    process.rest_of_stderr()
    return [line for line in process.stderr if "not reloaded" in line]


def test_certificate_without_its_key_is_told_once_and_taken_when_the_key_follows(
    start: Start, authority: Authority, own: Issued, server: Issued
) -> None:
    process = start(ECHO, *own.flags)
    own.certificate.write_text(server.pem)
    line = process.wait_stderr("not reloaded")
    assert line.endswith(
        f"certificates were not reloaded, the previous ones stay in use: --ssl-keyfile: {own.key} is not the key of "
        f"{own.certificate}"
    )
    assert " ERROR " in line
    assert shown(process.port, authority) == own.pem
    own.key.write_bytes(server.key.read_bytes())
    process.wait_stderr("certificates reloaded")
    assert shown(process.port, authority) == server.pem
    assert len(errors(process)) == 1


def test_removed_file_is_told_once_and_the_old_certificate_stays(
    start: Start, authority: Authority, own: Issued
) -> None:
    process = start(ECHO, *own.flags)
    key = own.key.read_bytes()
    own.key.unlink()
    process.wait_stderr(r"not reloaded.*--ssl-keyfile: .*No such file or directory$")
    assert shown(process.port, authority) == own.pem
    own.key.write_bytes(key)
    process.wait_stderr("certificates reloaded")
    assert len(errors(process)) == 1


def test_hangup_reads_the_files_again_and_drops_no_connection(
    start: Start, authority: Authority, own: Issued, server: Issued
) -> None:
    """SIGHUP to a process without workers; also when the files are still the same."""
    process = start(ECHO, *own.flags)
    with TLSClient(process.port, authority.client_context()) as client:
        client.open_websocket()
        process.signal(signal.SIGHUP)
        process.wait_stderr("certificates reloaded")
        own.replace_with(server)
        process.signal(signal.SIGHUP)
        process.wait_stderr("certificates reloaded")
        assert shown(process.port, authority) == server.pem
        client.send(text("still here"))
        assert client.read_text() == "still here"


def test_reload_on_demand_takes_new_files_at_once(
    serve: Serve, authority: Authority, own: Issued, server: Issued
) -> None:
    """`Server.reload_certificates`, which SIGHUP calls."""
    running = serve(echo, **own.options)
    own.replace_with(server)
    running.call(running.server.reload_certificates)
    assert shown(running.port, authority) == server.pem


def test_reload_on_demand_that_fails_keeps_the_old_certificate(
    serve: Serve, authority: Authority, own: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    running = serve(echo, **own.options)
    own.certificate.write_text("nothing")
    running.call(running.server.reload_certificates)
    assert "not reloaded" in caplog.text
    assert shown(running.port, authority) == own.pem


def test_reload_without_tls_does_nothing(serve: Serve) -> None:
    running = serve(echo)
    running.call(running.server.reload_certificates)


def test_authorities_of_clients_are_replaced_too(
    serve: Serve, authority: Authority, own: Issued, tmp_path: Path
) -> None:
    """A client that was trusted before is not any more; a ticket of before does not help it."""
    other = Authority(tmp_path / "other")
    trusted = tmp_path / "ca.pem"
    trusted.write_bytes(other.file.read_bytes())
    running = serve(echo, ssl_client_cert="required", ssl_ca_certs=str(trusted), **own.options)
    context = authority.client_context(other.issue("bob@example.com"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with TLSClient(running.port, context) as client:
        client.open_websocket()
        session = client.socket.session
    trusted.write_bytes(authority.file.read_bytes())
    running.call(running.server.reload_certificates)
    with (
        socket.create_connection(("127.0.0.1", running.port)) as below,
        pytest.raises(ssl.SSLError, match="UNKNOWN_CA"),
    ):
        context.wrap_socket(below, server_hostname="localhost", session=session)


# ---- expiry


@pytest.mark.parametrize("year", [2001, 2049, 2050, 2060])
def test_expiry_is_read_from_the_certificate(authority: Authority, tmp_path: Path, year: int) -> None:
    """RFC 5280 §4.1.2.5: through 2049 with two digits of the year, later with four."""
    expires = datetime(year, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert expiry_of(authority.issue("localhost", tmp_path, not_after=expires).pem) == expires.timestamp()


@pytest.mark.parametrize("pem", ["", "nothing", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"])
def test_expiry_that_cannot_be_read_is_none(pem: str) -> None:
    assert expiry_of(pem) is None


def test_certificate_that_expires_soon_is_a_warning(start: Start, authority: Authority, tmp_path: Path) -> None:
    """After a reload, too, and not for one that is valid for longer."""
    served = tmp_path / "served"
    served.mkdir()
    soon, later = (
        authority.issue("localhost", folder, not_after=datetime.now(UTC) + timedelta(days=days, hours=1))
        for folder, days in ((tmp_path, 13), (served, 14))
    )
    process = start(ECHO, *later.flags)
    later.replace_with(soon)
    process.signal(signal.SIGHUP)
    process.wait_stderr(r"certificates reloaded")
    assert not [line for line in process.stderr if "expires in" in line]
    process.wait_stderr(r"WARNING +certificate .*localhost.pem expires in 13 days")
    gone = authority.issue("localhost", tmp_path, not_after=datetime.now(UTC) - timedelta(days=1))
    later.replace_with(gone)
    process.wait_stderr(r"WARNING +certificate .*localhost.pem has expired")


def test_report_has_the_days_left_and_counts_failed_reloads(serve: Serve, authority: Authority, tmp_path: Path) -> None:
    own = authority.issue("localhost", tmp_path, not_after=datetime.now(UTC) + timedelta(days=100, hours=1))
    server = serve(echo, **own.options)
    report = server.call(server.server.report)
    assert 100 < report["certificate_days"] < 100.1
    assert report["counts"]["certificate_reload_failures"] == {"": 0}
    own.key.write_text("nothing")
    server.call(server.server.reload_certificates)
    assert server.call(server.server.report)["counts"]["certificate_reload_failures"] == {"": 1}


def test_report_without_tls_has_no_days(serve: Serve) -> None:
    server = serve(echo)
    assert server.call(server.server.report)["certificate_days"] is None
