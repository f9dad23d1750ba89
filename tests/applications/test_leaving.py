"""Clients that leave real applications: no line blames an application that knows it."""

from __future__ import annotations

import logging

import pytest

from tests.applications.file_apps import make_quart
from tests.asgi.app_help import error_lines, get, wait_connections
from tests.conftest import Serve
from tests.raw import RawClient
from tests.server_process import Start


@pytest.mark.parametrize("way", ["close", "half-close", "reset"])
def test_client_that_leaves_an_event_stream_of_sse_starlette_makes_one_line(start: Start, way: str) -> None:
    pytest.importorskip("sse_starlette")
    process = start("tests.applications.apps:make_events", "--factory")
    with RawClient(process.port) as client:
        client.send(get())
        client.read_until(b"data: first")
        if way == "reset":
            client.reset()
        elif way == "half-close":
            client.half_close()
            client.read_to_end()
    process.wait_stderr('"GET / ')
    process.terminate()
    assert process.wait() == 0
    process.rest_of_stderr()
    lines = [line for line in process.stderr if '"GET / ' in line or "application" in line or "ERROR" in line]
    assert len(lines) == 1, lines


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_client_that_leaves_with_a_whole_download_of_quart_is_no_error(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Each client closes as soon as it has all bytes, which is before Quart has sent its empty last piece."""
    pytest.importorskip("quart")
    caplog.set_level(logging.INFO, "asgiws")
    server = serve(make_quart(), access_log=True)
    for _ in range(10):
        with RawClient(server.port) as client:
            client.send(get("/file"))
            assert len(client.read_answer().body) == 220_000
    wait_connections(server, 0)
    server.stop()
    assert error_lines(caplog) == []
    lines = [line for line in caplog.messages if "/file" in line]
    assert len(lines) == 10
    assert not [line for line in lines if "incomplete" in line]
