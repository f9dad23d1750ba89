"""What a scraper reads: every metric of the table, with the numbers of what was sent, from one process and several."""

from __future__ import annotations

import os
import resource
import signal
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from asgiws.telemetry.prometheus import METRICS
from tests import raw
from tests.admin.helpers import Admin, Samples, wait_until
from tests.raw import RawClient
from tests.server_process import APPS, Start
from tests.tls.certificates import Authority, TLSClient

ECHO = "tests.apps:echo"
ADMIN = ("--admin", "127.0.0.1:0", "--no-access-log")
HOSTILE = "tests.limits.apps:app"
TROUBLE = (
    "asgiws_accept_errors_total", "asgiws_app_errors_total", "asgiws_keepalive_timeouts_total",
    "asgiws_slow_consumers_total",
)  # fmt: skip


def play(port: int, messages: int) -> int:
    """Open a WebSocket, echo, and close it with 1000; gives how many came back before the server closed it."""
    with RawClient(port) as client:
        client.open_websocket()
        for count in range(messages):
            client.send(raw.text("hello"))
            if client.read_frame() != (0x81, b"hello"):
                client.send(raw.close(1012))
                return count
        client.send(raw.close())
        client.read_to_end()
        return messages


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, tuple(sorted(labels.items()))), 0.0)


def is_counter(name: str) -> bool:
    return name.endswith(("_total", "_bucket", "_count", "_sum"))


def assert_only_grew(scrapes: list[Samples]) -> None:
    for before, after in pairwise(scrapes):
        for key, number in before.items():
            assert not is_counter(key[0]) or after.get(key, -1.0) >= number, key


@pytest.mark.promise
@pytest.mark.parametrize("workers", ["0", "2"])
def test_scrape_has_what_was_sent(start: Start, workers: str) -> None:
    process = start(ECHO, *ADMIN, "--workers", workers)
    admin = Admin(process)
    for messages in (1, 2, 3):
        play(process.port, messages)
    with RawClient(process.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        client.read_answer()
    with RawClient(process.port) as client:
        client.open_websocket()
        client.send(raw.frame(1, b"hello", key=None))
        code, reason = client.read_close()
        assert code == 1002
    # Each worker tells once a second
    wait_until(
        lambda: (
            value(admin.samples(), "asgiws_websocket_duration_seconds_count") == 4
            and value(admin.samples(), "asgiws_http_requests_total") == 1
        )
    )
    samples = admin.samples()

    assert value(samples, "asgiws_websocket_messages_total", direction="in") == 6
    assert value(samples, "asgiws_websocket_messages_total", direction="out") == 6
    assert value(samples, "asgiws_websocket_bytes_total", direction="out") == 6 * 7 + 3 * 4 + 4 + len(reason)
    assert value(samples, "asgiws_websocket_closes_total", by="client", code="1000") == 3
    assert value(samples, "asgiws_websocket_handshakes_total", outcome="accepted") == 4
    assert value(samples, "asgiws_websocket_duration_seconds_count") == 4
    assert value(samples, "asgiws_rejections_total", rule="unmasked-frame") == 1
    assert value(samples, "asgiws_http_responses_total", status="200") == 1
    assert value(samples, "asgiws_http_request_duration_seconds_count") == 1
    assert value(samples, "asgiws_connections", kind="websocket") == 0
    assert value(samples, "asgiws_workers", state="serving") == max(1, int(workers))
    assert value(samples, "asgiws_ready") == 1
    assert value(samples, "asgiws_worker_memory_bytes", worker="1") > 1_000_000


def test_open_connections_are_told_while_they_are_open(start: Start) -> None:
    process = start(ECHO, *ADMIN, "--workers", "2")
    admin = Admin(process)
    clients = [RawClient(process.port) for _ in range(6)]
    for client in clients:
        client.open_websocket()
    wait_until(lambda: value(admin.samples(), "asgiws_connections", kind="websocket") == 6)
    for client in clients:
        client.socket.close()
    wait_until(lambda: value(admin.samples(), "asgiws_connections", kind="websocket") == 0)


@pytest.mark.slow
def test_no_counter_goes_backwards_when_workers_die_and_are_replaced(start: Start) -> None:
    """Two workers under traffic; one killing it, then all are replaced; the sums are what was sent."""
    process = start(ECHO, *ADMIN, "--workers", "2")
    admin = Admin(process)
    scrapes = [admin.samples()]
    echoed = opened = 0

    def scrape() -> Samples:
        scrapes.append(admin.samples())
        return scrapes[-1]

    def play_on(times: int) -> None:
        nonlocal echoed, opened
        for _ in range(times):
            echoed += play(process.port, 5)
            opened += 1

    def all_is_told() -> bool:
        samples = scrape()
        closes = sum(number for (name, _), number in samples.items() if name == "asgiws_websocket_closes_total")
        return (
            closes == opened == value(samples, "asgiws_websocket_handshakes_total", outcome="accepted")
            and value(samples, "asgiws_websocket_messages_total", direction="out") == echoed
        )

    play_on(8)
    wait_until(all_is_told)

    os.kill(admin.status()["workers"][0]["pid"], signal.SIGKILL)
    wait_until(lambda: value(scrape(), "asgiws_worker_restarts_total", reason="died") == 1)
    wait_until(admin.is_ready)
    assert all_is_told()
    play_on(8)
    wait_until(all_is_told)

    process.signal(signal.SIGHUP)
    while value(scrape(), "asgiws_worker_restarts_total", reason="reload") < 2:
        play_on(1)
    play_on(8)
    wait_until(lambda: value(scrape(), "asgiws_workers", state="stopping") == 0)
    wait_until(all_is_told)

    assert value(scrapes[-1], "asgiws_workers", state="serving") == 2
    assert echoed >= 80
    assert_only_grew(scrapes)


def test_last_messages_before_a_worker_ends_are_counted(start: Start) -> None:
    """A worker that is replaced reports once more when it ends."""
    process = start(ECHO, *ADMIN, "--workers", "1")
    admin = Admin(process)
    with RawClient(process.port) as client:
        client.open_websocket()
        process.signal(signal.SIGHUP)
        process.wait_stderr("worker 1 is process")  # the successor serves, the old worker is told to stop
        first, payload = client.read_frame()
        assert (first, payload[:2]) == (0x88, (1012).to_bytes(2))
        client.send(raw.close(1012))
        client.read_to_end()
    process.wait_stderr("has exited")

    assert value(admin.samples(), "asgiws_websocket_closes_total", by="server", code="1012") == 1


def test_worker_that_has_served_enough_is_counted_as_recycled(start: Start) -> None:
    process = start(ECHO, *ADMIN, "--workers", "1", "--max-requests", "3")
    admin = Admin(process)
    for _ in range(3):
        play(process.port, 2)

    wait_until(lambda: value(admin.samples(), "asgiws_worker_restarts_total", reason="recycled") == 1)
    wait_until(lambda: value(admin.samples(), "asgiws_websocket_messages_total", direction="in") == 6)


@pytest.mark.slow
def test_worker_that_hangs_is_counted_and_what_it_told_before_is_kept(start: Start) -> None:
    process = start(f"{APPS}:blocking", *ADMIN, "--workers", "1", "--worker-timeout", "2")
    admin = Admin(process)
    told = "asgiws_event_loop_lag_seconds_count"
    wait_until(lambda: value(admin.samples(), told))
    before = value(admin.samples(), told)
    with RawClient(process.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        process.wait_stdout("blocking")
        wait_until(lambda: value(admin.samples(), "asgiws_worker_restarts_total", reason="hung") == 1)
    assert value(admin.samples(), told) >= before


def test_worker_that_blocks_shows_as_lag_while_it_blocks(start: Start) -> None:
    process = start(f"{APPS}:blocking", *ADMIN, "--workers", "1")
    admin = Admin(process)
    worker = admin.status()["workers"][0]["pid"]
    with RawClient(process.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        process.wait_stdout("blocking")
        try:
            wait_until(lambda: value(admin.samples(), "asgiws_worker_lag_seconds", worker="1") > 0.5)
        finally:
            os.kill(worker, signal.SIGKILL)


# ---- trouble, and what waits


def wait_for_trouble(admin: Admin, name: str) -> None:
    """Wait until something is counted, and see that it is counted once and as nothing else."""
    wait_until(lambda: any(value(admin.samples(), trouble) for trouble in TROUBLE))
    samples = admin.samples()
    assert {trouble: value(samples, trouble) for trouble in TROUBLE} == dict.fromkeys(TROUBLE, 0) | {name: 1}


def test_client_that_answers_no_ping_is_a_keepalive_timeout(start: Start) -> None:
    process = start(ECHO, *ADMIN, "--ping-interval", "0.2", "--ping-timeout", "0.2")
    with RawClient(process.port) as client:
        client.open_websocket()
        assert client.read_frame()[0] == 0x89
        assert client.read_close() == (1011, "keepalive ping timeout")
        wait_for_trouble(Admin(process), "asgiws_keepalive_timeouts_total")


def test_client_that_does_not_read_is_a_slow_consumer(start: Start) -> None:
    process = start(HOSTILE, *ADMIN, "--write-timeout", "0.3")
    with RawClient(process.port, receive_buffer=4096) as client:
        client.open_websocket("/talker")
        wait_for_trouble(Admin(process), "asgiws_slow_consumers_total")


def test_http_client_that_does_not_read_is_a_slow_consumer(start: Start) -> None:
    process = start("tests.telemetry.log_app:app", *ADMIN, "--write-timeout", "0.3")
    with RawClient(process.port, receive_buffer=4096) as client:
        client.send(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_for_trouble(Admin(process), "asgiws_slow_consumers_total")


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_exception_of_the_application_is_counted(start: Start, kind: str) -> None:
    process = start("tests.telemetry.log_app:app", *ADMIN)
    with RawClient(process.port) as client:
        if kind == "http":
            client.send(b"GET /raise HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.read_answer().status == 500
        else:
            client.open_websocket("/raise")
            client.send(raw.text("now"))
            assert client.read_close()[0] == 1011
        wait_for_trouble(Admin(process), "asgiws_app_errors_total")


@pytest.mark.slow
def test_connection_that_cannot_be_accepted_is_counted(start: Start) -> None:
    process = start(ECHO, *ADMIN)
    admin = Admin(process)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (48, 48))
    clients = [RawClient(process.port) for _ in range(80)]
    process.wait_stderr("cannot accept connections: Too many open files")
    for client in clients:
        client.socket.close()
    process.wait_stderr("accepting connections again")
    samples = admin.samples()

    assert value(samples, "asgiws_accept_errors_total") >= 1
    assert value(samples, "asgiws_app_errors_total") == 0


def test_messages_that_the_application_does_not_take_wait_in_the_inbox(start: Start) -> None:
    process = start(HOSTILE, *ADMIN)
    with RawClient(process.port) as client:
        client.open_websocket("/deaf")
        client.send(raw.text("hello") * 2 + raw.frame(9))
        client.read_frame()  # the pong: both messages were parsed
        samples = Admin(process).samples()

    assert value(samples, "asgiws_inbox_messages") == 2
    assert value(samples, "asgiws_inbox_bytes") == 10
    assert value(samples, "asgiws_write_buffer_bytes") == 0


def test_what_a_client_does_not_read_waits_in_the_write_buffer(start: Start) -> None:
    process = start(HOSTILE, *ADMIN)
    admin = Admin(process)
    with RawClient(process.port, receive_buffer=4096) as client:
        client.open_websocket("/talker")
        wait_until(lambda: value(admin.samples(), "asgiws_write_buffer_bytes") > 0)
        samples = admin.samples()

    assert value(samples, "asgiws_inbox_messages") == value(samples, "asgiws_inbox_bytes") == 0


def test_request_is_open_while_it_is_with_the_application(start: Start) -> None:
    process = start(HOSTILE, *ADMIN)
    admin = Admin(process)
    with RawClient(process.port) as client:
        client.send(b"GET /deaf HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: value(admin.samples(), "asgiws_http_requests_open") == 1)
        assert value(admin.samples(), "asgiws_http_requests_total") == 1
        assert value(admin.samples(), "asgiws_inbox_messages") == 0


def test_compression_is_told_before_and_after_it(start: Start) -> None:
    process = start(ECHO, *ADMIN)
    with RawClient(process.port) as client:
        client.open_websocket("/", "Sec-WebSocket-Extensions: permessage-deflate")
        client.send(raw.text("a" * 1000))
        first, payload = client.read_frame()
        samples = Admin(process).samples()

    assert first == 0xC1
    assert value(samples, "asgiws_compression_input_bytes_total") == 1000
    assert len(payload) <= value(samples, "asgiws_compression_output_bytes_total") <= len(payload) + 4


def test_topics_are_counted_in_all_workers(start: Start) -> None:
    process = start("tests.topics.chat:app", *ADMIN, "--workers", "2")
    admin = Admin(process)
    members = [RawClient(process.port) for _ in range(6)]
    for place, client in enumerate(members):
        client.open_websocket(f"/rooms/{place % 2}")
        assert client.read_text() == "subscribed"
    for _ in range(5):
        members[0].send(raw.text("hello"))
        assert [client.read_text() for client in members[::2]] == ["hello"] * 3
    wait_until(lambda: value(admin.samples(), "asgiws_topic_delivered_total") == 15)
    wait_until(lambda: value(admin.samples(), "asgiws_topic_relay_lag_seconds_count") > 0)
    samples = admin.samples()

    assert value(samples, "asgiws_topic_published_total") == 5
    assert value(samples, "asgiws_topic_subscriptions") == 6
    assert 2 <= value(samples, "asgiws_topics") <= 4
    assert value(samples, "asgiws_topic_skipped_total") == value(samples, "asgiws_topic_gaps_total") == 0
    for client in members:
        client.socket.close()
    wait_until(lambda: value(admin.samples(), "asgiws_topic_subscriptions") == 0)
    wait_until(lambda: value(admin.samples(), "asgiws_topics") == 0)


# ---- the exposition


def test_exposition_is_the_table(start: Start, tmp_path: Path) -> None:
    """Each row of the table has its family, of its kind and with its labels, and there is no other.

    Over TLS: without a certificate, its days are absent.
    """
    authority = Authority(tmp_path / "authority")
    process = start(ECHO, *ADMIN, *authority.issue("localhost").flags)
    with TLSClient(process.port, authority.client_context()) as client:
        client.open_websocket()
        client.send(raw.close())
        client.read_to_end()
    with TLSClient(process.port, authority.client_context()) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nnonsense\r\n\r\n")
        client.read_to_end()
    families = {
        family.name: family for family in text_string_to_metric_families(Admin(process).ask("/metrics").body.decode())
    }

    assert set(families) == {metric.name.removesuffix("_total") for metric in METRICS}
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total")]
        assert family.type == ("gauge" if metric.kind == "worker" else metric.kind), metric.name
        assert family.documentation == metric.help
        assert family.samples, f"{metric.name} was not exercised"
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)


def test_histogram_ranges_hold_all_below_them(start: Start) -> None:
    process = start(ECHO, *ADMIN)
    play(process.port, 1)
    samples = Admin(process).samples()
    ranges = [number for (name, _), number in samples.items() if name == "asgiws_websocket_duration_seconds_bucket"]

    assert ranges == sorted(ranges)
    assert ranges[0] == ranges[-1] == value(samples, "asgiws_websocket_duration_seconds_count") == 1


def test_scraper_that_asks_for_openmetrics_gets_it(start: Start) -> None:
    process = start(ECHO, *ADMIN)
    answer = Admin(process).ask("/metrics", "Accept: application/openmetrics-text; version=1.0.0")

    assert (answer.header(b"content-type") or b"").startswith(b"application/openmetrics-text")
    families = parse_openmetrics(answer.body.decode())  # type: ignore[no-untyped-call]  # prometheus-client has no types
    assert "asgiws_connections" in {family.name for family in families}


def test_scraper_whose_accept_is_malformed_gets_text(start: Start) -> None:
    """Versions that are no numbers, and one that is a larger number than Python reads."""
    process = start(ECHO, *ADMIN)
    admin = Admin(process)
    for version in ("abc", "1..0", "\xb2", "1" * 5000):
        for kind in ("application/openmetrics-text", "text/plain"):
            answer = admin.ask("/metrics", f"Accept: {kind}; version={version}")
            assert answer.status == 200, version[:10]
            assert answer.header(b"content-type") == b"text/plain; version=0.0.4; charset=utf-8"
            assert b"asgiws_ready 1.0" in answer.body


def test_clients_cannot_make_series(start: Start) -> None:
    """Whatever close codes clients think of."""
    process = start(ECHO, *ADMIN)
    admin = Admin(process)
    for code in range(4000, 4020):
        with RawClient(process.port) as client:
            client.open_websocket()
            client.send(raw.close(code))
            client.read_to_end()
    wait_until(lambda: value(admin.samples(), "asgiws_websocket_closes_total", by="client", code="4xxx") == 20)

    codes = [labels for name, labels in admin.samples() if name == "asgiws_websocket_closes_total"]
    assert len(codes) == 1


def test_scrape_without_prometheus_client_says_what_to_install(start: Start, tmp_path: Path) -> None:
    (tmp_path / "prometheus_client.py").write_text("raise ModuleNotFoundError('not here')")
    process = start(ECHO, *ADMIN, environ={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"})
    answer = Admin(process).ask("/metrics")

    assert answer.status == 501
    assert answer.body.startswith(b"prometheus-client is not installed: run pip install prometheus-client")


@pytest.mark.promise
def test_nothing_of_it_is_on_the_public_port(start: Start) -> None:
    process = start(ECHO, *ADMIN)
    for path in ("/metrics", "/status", "/livez", "/readyz"):
        with RawClient(process.port) as client:
            client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            answer = client.read_answer()
        assert (answer.status, answer.body) == (200, b""), "the application answers, with the body that was sent"
