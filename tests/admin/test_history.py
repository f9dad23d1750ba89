"""What the live view plots: samples of the last fifteen minutes, kept whether or not a page is open."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest

from asgiws.admin.history import History, make_sample
from asgiws.admin.source import OneServer
from asgiws.server.server import Server
from asgiws.telemetry.scoreboard import Scoreboard, Status, Worker
from tests.admin.helpers import Admin, wait_until
from tests.apps import echo
from tests.raw import RawClient, close
from tests.server_process import Start
from tests.telemetry.test_scoreboard import report

ECHO = "tests.apps:echo"


def status(messages: int, *, lag_s: float = 0.0, closes: int = 0, **values: Any) -> Status:
    """A status after so many messages."""
    scoreboard = Scoreboard()
    scoreboard.update("a", report(messages, closes=closes, **values) | {"lag_s": lag_s})
    return scoreboard.status([Worker("a", 1, 17, "serving")], ready=True, draining=False)


def test_sample_has_rates_and_levels() -> None:
    sample = make_sample(status(30, closes=7, open_websockets=4), status(10, closes=3), 5.0)
    assert (sample["websockets"], sample["messages_in"], sample["messages_out"]) == (4, 4.0, 0.0)
    assert sample["closes"] == {"client": 0.8, "app": 0, "server": 0, "admin": 0}


def test_sample_has_the_rates_of_topics() -> None:
    before, now = status(1), status(1)
    now["counts"] |= {"topic_published": {"": 10}, "topic_delivered": {"": 40}}
    sample = make_sample(now, before, 5.0)
    assert (sample["published"], sample["delivered"]) == (2.0, 8.0)


def test_sample_has_the_largest_lag() -> None:
    """Also one between two samples, which the latest sweep does not have any more: at least its bucket is known."""
    assert make_sample(status(1, lag_s=3.25), status(1), 5.0)["lag_s"] == 3.25
    before, now = status(0), status(0)
    now["histograms"]["event_loop_lag"]["counts"][10] = 1
    assert make_sample(now, before, 5.0)["lag_s"] == now["histograms"]["event_loop_lag"]["bounds"][9]


def test_history_is_bounded_and_gives_each_sample_once() -> None:
    async def take_many() -> History:
        history = History(OneServer(Server(echo)), every_s=0)
        keeping = asyncio.create_task(history.keep())
        for _ in range(1000):
            await asyncio.sleep(0)
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
        return history

    history = asyncio.run(take_many())
    assert history.count > 180
    assert len(history.since(0)) == 180
    assert len(history.since(history.count - 1)) == 1
    assert history.since(history.count) == []


def first_message(admin: Admin) -> dict[str, Any]:
    with admin.connect() as client:
        client.open_websocket("/live")
        found: dict[str, Any] = json.loads(client.read_text())
        client.send(close())
        return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_view_that_is_opened_later_shows_what_was(start: Start, workers: str) -> None:
    process = start(ECHO, "--admin", "127.0.0.1:0", "--workers", workers)
    admin = Admin(process)
    with RawClient(process.port) as client:
        client.open_websocket()
        client.send(close(4000))
        client.read_to_end()
    wait_until(lambda: any(sample["closes"]["client"] for sample in first_message(admin)["history"]))
