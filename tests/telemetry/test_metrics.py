"""Each metric shows the number of its name: every number of a worker is another one, and none appears elsewhere."""

from __future__ import annotations

from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from asgiws.telemetry.counters import Counters, Histogram, Levels
from asgiws.telemetry.prometheus import METRICS, expose
from asgiws.telemetry.scoreboard import RESTART_REASONS, Scoreboard, Status, Worker

COUNTERS: Final = {
    "accept_errors": "asgiws_accept_errors_total",
    "app_errors": "asgiws_app_errors_total",
    "certificate_reload_failures": "asgiws_certificate_reload_failures_total",
    "broker_reconnects": "asgiws_broker_reconnects_total",
    "bytes_in": 'asgiws_websocket_bytes_total{direction="in"}',
    "bytes_out": 'asgiws_websocket_bytes_total{direction="out"}',
    "compressed_from": "asgiws_compression_input_bytes_total",
    "compressed_to": "asgiws_compression_output_bytes_total",
    "drain_notices": "asgiws_drain_notices_total",
    "http_requests": "asgiws_http_requests_total",
    "keepalive_timeouts": "asgiws_keepalive_timeouts_total",
    "messages_in": 'asgiws_websocket_messages_total{direction="in"}',
    "messages_out": 'asgiws_websocket_messages_total{direction="out"}',
    "slow_consumers": "asgiws_slow_consumers_total",
    "topics_delivered": "asgiws_topic_delivered_total",
    "topics_gaps": "asgiws_topic_gaps_total",
    "topics_gaps_filled": "asgiws_topic_gaps_filled_total",
    "topics_oversized": "asgiws_topic_oversized_total",
    "topics_published": "asgiws_topic_published_total",
    "topics_received": "asgiws_topic_received_total",
    "topics_recovered": 'asgiws_topic_recoveries_total{outcome="complete"}',
    "topics_skipped": "asgiws_topic_skipped_total",
    "topics_unrecovered": 'asgiws_topic_recoveries_total{outcome="incomplete"}',
    "websockets_abandoned": 'asgiws_websocket_handshakes_total{outcome="abandoned"}',
    "websockets_accepted": 'asgiws_websocket_handshakes_total{outcome="accepted"}',
    "websockets_refused": 'asgiws_websocket_handshakes_total{outcome="refused"}',
    "websockets_rejected": 'asgiws_websocket_handshakes_total{outcome="rejected"}',
}
"""Attributes of `Counters`, and as what each is scraped."""
HISTOGRAMS: Final = {
    "broker_round_trip": "asgiws_broker_round_trip_seconds",
    "lag": "asgiws_event_loop_lag_seconds",
    "lifetimes": "asgiws_websocket_duration_seconds",
    "opening_waits": "asgiws_websocket_wait_seconds",
    "relay_lag": "asgiws_topic_relay_lag_seconds",
    "requests": "asgiws_http_request_duration_seconds",
    "round_trips": "asgiws_websocket_round_trip_seconds",
    "sweeps": "asgiws_sweep_duration_seconds",
}
LEVELS: Final = {
    "arriving": 'asgiws_connections{kind="arriving"}',
    "deaf": "asgiws_broker_deaf_workers",
    "history_bytes": "asgiws_topic_history_bytes",
    "http": 'asgiws_connections{kind="http"}',
    "inbox_bytes": "asgiws_inbox_bytes",
    "inbox_messages": "asgiws_inbox_messages",
    "open_files": "asgiws_open_files",
    "open_files_limit": "asgiws_open_files_limit",
    "openings": "asgiws_websocket_openings",
    "requests": "asgiws_http_requests_open",
    "shedding": "asgiws_shedding",
    "subscriptions": "asgiws_topic_subscriptions",
    "topics": "asgiws_topics",
    "unsent_bytes": "asgiws_write_buffer_bytes",
    "waiting": 'asgiws_connections{kind="waiting"}',
    "websockets": 'asgiws_connections{kind="websocket"}',
}
LIVE: Final = {"bytes_in", "bytes_out", "compressed_from", "compressed_to", "messages_in", "messages_out"}
"""What open connections have counted so far, a part of the counter of that name."""
UNSCRAPED: Final = {"handshakes"}
"""The number of the latest connection."""
WORKERS: Final = ("starting", "serving", "serving", "stopping", "stopping", "stopping")


def fill() -> tuple[Status, dict[str, float]]:
    """Make a status in which each number is another one; gives it with what has to be scraped."""
    counters, levels, scoreboard = Counters(), Levels(), Scoreboard()
    wanted: dict[str, float] = {"asgiws_ready": 1.0, "asgiws_draining": 0.0}
    for number, (name, metric) in enumerate(COUNTERS.items(), 1000):
        setattr(counters, name, number)
        wanted[metric] = number
    for number, (name, metric) in enumerate(LEVELS.items(), 2000):
        setattr(levels, name, number)
        wanted[metric] = number
    for number, name in enumerate(sorted(LIVE), 3000):
        setattr(levels, name, number)
        wanted[COUNTERS[name]] += number
    for number, (name, metric) in enumerate(HISTOGRAMS.items(), 1):
        histogram = getattr(counters, name)
        for _ in range(number):
            histogram.add(histogram.bounds[-1] + 0.25)
        wanted[f"{metric}_count"] = number
        wanted[f"{metric}_sum"] = number * (histogram.bounds[-1] + 0.25)
    counters.closes["app", 4001] = 4000
    wanted['asgiws_websocket_closes_total{by="app",code="4001"}'] = 4000
    counters.http_responses[204] = 4100
    wanted['asgiws_http_responses_total{status="204"}'] = 4100
    counters.rejections["bad-utf8"] = 4200
    wanted['asgiws_rejections_total{rule="bad-utf8"}'] = 4200
    for number, reason in enumerate(RESTART_REASONS, 4300):
        scoreboard.restarts[reason] = number
        wanted[f'asgiws_worker_restarts_total{{reason="{reason}"}}'] = number
    for state in WORKERS:
        wanted[f'asgiws_workers{{state="{state}"}}'] = WORKERS.count(state)
    worker = {"up_s": 5000.5, "lag_s": 5001.5, "memory_bytes": 5002, "certificate_days": 5003.5}
    for metric, key in (
        ("uptime_seconds", "up_s"),
        ("lag_seconds", "lag_s"),
        ("memory_bytes", "memory_bytes"),
        ("certificate_days", "certificate_days"),
    ):
        wanted[f'asgiws_worker_{metric}{{worker="1"}}'] = worker[key]
    scoreboard.update("1", report(counters, levels) | worker)
    rows = [Worker(str(number), number, number, state) for number, state in enumerate(WORKERS, 1)]
    status = scoreboard.status(rows, ready=True, draining=False)
    status["counts"]["admin_denials"] = {"": 4400}
    wanted["asgiws_admin_denials_total"] = 4400
    return status, wanted


def report(counters: Counters, levels: Levels) -> dict[str, Any]:
    return {
        "pid": 1, "counts": counters.as_counts(levels), "histograms": counters.as_histograms(),
        "levels": levels.as_levels(), "connections": [], "tenants": {}, "overloaded": False,
    }  # fmt: skip


def scrape(status: Status) -> dict[str, float]:
    """Give the samples as they are written, without ranges and without the workers that have told nothing."""
    samples = {}
    for family in text_string_to_metric_families(expose(status, "")[0].decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            if "le" not in sample.labels and sample.labels.get("worker", "1") == "1":
                samples[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return samples


def test_each_metric_shows_the_number_of_its_name() -> None:
    status, wanted = fill()
    assert scrape(status) == wanted


def test_no_metric_is_left_out() -> None:
    """So that the test above has to be told of a new one."""
    _, wanted = fill()
    names = {name.partition("{")[0].removesuffix("_count").removesuffix("_sum") for name in wanted}
    assert names == {metric.name for metric in METRICS}


def test_no_number_of_a_worker_is_left_out() -> None:
    counters, levels = Counters(), Levels()
    numbers = {name for name in Counters.__slots__ if isinstance(getattr(counters, name), int)}
    histograms = {name for name in Counters.__slots__ if isinstance(getattr(counters, name), Histogram)}

    assert numbers == COUNTERS.keys() | UNSCRAPED
    assert histograms == HISTOGRAMS.keys()
    assert {name for name in Levels.__slots__ if getattr(levels, name) == 0} == LEVELS.keys() | LIVE
