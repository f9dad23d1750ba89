"""deploy/questions.md: its code does what its text says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from asgiws.server.asgi import Scope
from tests.apps import Receive, Send, messages
from tests.browser import start_chromium, wait_until
from tests.conftest import Serve
from tests.docs import ROOT

TEXT = (ROOT / "deploy" / "questions.md").read_text()
(SNIPPET,) = re.findall(r"```js\n(.*?)```", TEXT, re.DOTALL)
PAGE = f"""<!doctype html><title>page</title><link rel="icon" href="data:,"><ol></ol><script>
// What the snippet does with the close codes that it sees
const closes = [], waits = [], later = setTimeout;
window.setTimeout = (task, wait) => {{ waits.push(wait); later(task, wait); }};
window.WebSocket = class extends WebSocket {{
  constructor(url) {{
    super(url);
    this.addEventListener("close", ({{ code }}) => later(() => closes.push(code), 0));
  }}
}};
{SNIPPET}
connect(location.href.replace(/^http/, "ws"), (text) => {{
  document.querySelector("ol").append(Object.assign(document.createElement("li"), {{ textContent: text }}));
}});
</script>"""


class Greeter:
    """Serve the page, and greet each WebSocket; close it with `code` where there is one."""

    def __init__(self, code: int | None = None) -> None:
        self.code = code
        self.opened = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = [(b"content-type", b"text/html; charset=utf-8")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": PAGE.encode()})
        elif scope["type"] == "websocket":
            self.opened += 1
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": f"hello {self.opened}"})
            if self.code:
                await send({"type": "websocket.close", "code": self.code})
            async for _ in messages(receive):
                pass


@pytest.mark.browser
@pytest.mark.slow
def test_snippet_reconnects_after_1012_and_not_after_a_code_of_the_application(serve: Serve, tmp_path: Path) -> None:
    app = Greeter()
    server = serve(app, retry_hint=3)
    with start_chromium(tmp_path / "chromium") as driver:

        def seen(what: str) -> Any:
            return driver.execute_script(f"return {what}")

        lines = "[...document.querySelectorAll('li')].map((line) => line.textContent)"
        driver.get(f"{server.url}/")
        wait_until(driver, lambda: seen(lines) == ["hello 1"])
        server.stop()
        wait_until(driver, lambda: seen("closes")[:1] == [1012])
        app.code = 4000
        again = serve(app, port=server.port)
        wait_until(driver, lambda: seen(lines) == ["hello 1", "hello 2"])
        wait_until(driver, lambda: seen("closes")[-1] == 4000)
        # After 1012 as long as the server asked, and after each attempt while no server was there; not after 4000.
        waits = seen("waits")
        assert len(waits) == len(seen("closes")) - 1
        assert waits[0] in (1000, 2000, 3000)
        assert all(wait_ms <= 500 * 2**attempt for attempt, wait_ms in enumerate(waits[1:]))
        again.stop()
