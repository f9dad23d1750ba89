"""The live view as text: what it shows of a status."""

from __future__ import annotations

from typing import Any

from asgiws.admin.view import view_lines
from asgiws.telemetry.scoreboard import Scoreboard, Status, Worker
from tests.telemetry.test_scoreboard import report


def row(number: int, **values: Any) -> dict[str, Any]:
    """One connection."""
    return {
        "number": number, "path": "/", "client": "192.0.2.1:5000", "state": "open", "open_s": 90.0,
        "round_trip_s": 0.0, "messages_in": 1, "bytes_in": 10, "messages_out": 1, "bytes_out": 10,
        "inbox_messages": 0, "inbox_bytes": 0, "unsent_bytes": 0, **values,
    }  # fmt: skip


def status(messages: int = 0, *rows: dict[str, Any]) -> Status:
    scoreboard = Scoreboard()
    scoreboard.update("a", report(messages, pid=17) | {"connections": list(rows)})
    return scoreboard.status([Worker("a", 1, 17, "serving")], ready=True, draining=False)


def view(now: Status, before: Status | None = None, *, width: int = 200, height: int = 60) -> list[str]:
    return view_lines(now, before, 2.0, width=width, height=height)


def test_rates_are_differences_over_the_time_between() -> None:
    (line,) = [line for line in view(status(30), status(10)) if line.startswith("messages")]
    assert "in 30, 10/s" in line


def test_rate_of_a_single_status_is_not_known() -> None:
    (line,) = [line for line in view(status(30)) if line.startswith("messages")]
    assert "in 30, -/s" in line


def used(published: int) -> Status:
    """A status of a server whose topics have carried so many messages, each to two subscribers."""
    now = status()
    for name, value in {"published": published, "delivered": 2 * published, "skipped": 3, "gaps": 1}.items():
        now["counts"][f"topic_{name}"] = {"": value}
    now["levels"] |= {"topics": {"": 4}, "topic_subscriptions": {"": 9}}
    now["histograms"]["topic_relay_lag"]["counts"][0] = 1
    return now


def test_topics_are_shown_where_they_are_used() -> None:
    (line,) = [line for line in view(used(30), used(10)) if line.startswith("topics")]
    parts = line.removeprefix("topics").strip().split("   ")
    assert parts == [
        "4, 9 subscriptions", "published 30, 10/s", "delivered 60, 20/s", "skipped 3", "gaps 1",
        "relay lag half <1 ms, 99 % <1 ms",
    ]  # fmt: skip
    assert not [line for line in view(status(30)) if line.startswith("topics")]


def test_a_broker_is_shown_where_there_is_one() -> None:
    now = status()
    now["counts"] |= {"topic_received": {"": 30}, "broker_reconnects": {"": 2}}
    now["histograms"]["broker_round_trip"]["counts"][0] = 1
    (line,) = [line for line in view(now) if line.startswith("broker")]
    assert line.removeprefix("broker").strip().split("   ") == [
        "connected", "lost 2", "received 30, -/s", "oversized 0", "round trip half <1 ms, 99 % <1 ms",
    ]  # fmt: skip
    now["levels"]["broker_deaf_workers"] = {"": 1}
    (line,) = [line for line in view(now) if line.startswith("broker")]
    assert line.split()[1:3] == ["away", "from"]
    assert not [line for line in view(status(30)) if line.startswith("broker")]


def test_slowest_and_largest_connections_come_first() -> None:
    rows = [row(1, round_trip_s=0.5), row(2, unsent_bytes=5000), row(3, round_trip_s=2.5)]
    lines = view(status(0, *rows))
    largest, slowest = lines.index("LARGEST CONNECTIONS"), lines.index("SLOWEST CONNECTIONS")

    assert lines[largest + 2].startswith("17-2 ")
    assert [line.split()[0] for line in lines[slowest + 2 : slowest + 4]] == ["17-3", "17-1"]
    assert "4.9 KiB" in lines[largest + 2]


def test_view_fits_the_terminal() -> None:
    lines = view(status(0, *(row(number) for number in range(40))), width=60, height=24)
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 60


def test_what_a_client_has_chosen_moves_no_cursor() -> None:
    """A path may hold what a terminal obeys."""
    text = "\n".join(view(status(0, row(1, path="/\x1b[2J\x9b\r\n\u202e"))))
    assert all(" " <= character <= "~" or character == "\n" for character in text)
    assert "\\x1b[2J" in text


def test_percentiles_are_of_what_came_since() -> None:
    """Lag of hours ago is no news."""
    before, now = status(0), status(0)
    before["histograms"]["event_loop_lag"]["counts"] = [0] * 13 + [500]
    now["histograms"]["event_loop_lag"]["counts"] = [2, *[0] * 12, 500]
    (line,) = [line for line in view(now, before) if line.startswith("loop lag")]
    assert "99 % <1 ms" in line
