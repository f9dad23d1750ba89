"""What a page in a browser sees of a refusal: nothing of a status, everything of a Close."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome

from tests.apps import echo
from tests.browser import start_chromium
from tests.conftest import Serve
from tests.limits.admission import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]

OPEN = """
const [url, protocols, done] = arguments;
const socket = new WebSocket(url, protocols);
socket.onclose = (event) => done([event.code, event.reason, event.wasClean]);
"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with start_chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.mark.parametrize("protocols", [[], ["one", "two"]], ids=["no-subprotocol", "subprotocols"])
@pytest.mark.parametrize("refusal", ["http", "close"])
def test_page_sees_the_close_and_no_status(serve: Serve, chromium: Chrome, refusal: str, protocols: list[str]) -> None:
    server = serve(echo, refusal=refusal, shed_memory=1)
    wait_until(lambda: server.server.worker.admission.overload is not None)
    chromium.get(server.url)
    code, reason, clean = chromium.execute_async_script(OPEN, server.ws_url, protocols)
    if refusal == "http":
        assert (code, reason, clean) == (1006, "", False)
    else:
        assert (code, clean) == (1013, True)
        assert re.fullmatch(r"shed-memory retry-after=\d+", reason)
    chromium.get("about:blank")
