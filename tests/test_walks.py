"""The walks of asgiws/README.md: a message and a request pass the files that the page lists, and no others."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType

import pytest

from asgiws.server.sweep import Sweep
from tests.counted import ECHO, FRAME, PACKAGE, InServer, serve_while
from tests.raw import RawClient

TEXT = Path(PACKAGE, "README.md").read_text()
MOST_FILES = {"A frame in": 3, "A send out": 3, "An HTTP request": 9, "A SIGTERM with workers": 9}
GET = b"GET / HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n"


def listed(walk: str) -> list[str]:
    """Return the files of a walk, in order."""
    (section,) = re.findall(rf"^### {walk}\n(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL)
    return re.findall(r"^\d+\. `([\w/]+\.py)`:", section, re.MULTILINE)


@pytest.mark.parametrize(("walk", "most"), MOST_FILES.items())
def test_walk_names_files_that_exist_and_few_of_them(walk: str, most: int) -> None:
    files = listed(walk)
    assert 0 < len(files) <= most
    for name in files:
        assert Path(PACKAGE, name).exists(), name


class Passed:
    """A profile function that notes the files of ours in which something is called, outside the sweep."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self._in_sweep = False

    def profile(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if code is Sweep.turn.__code__:
            self._in_sweep = event == "call"
        elif event == "call" and not self._in_sweep and code.co_filename.startswith(PACKAGE):
            self.files.add(str(Path(code.co_filename).relative_to(PACKAGE)))


def files_passed(
    loop_name: str, sent: bytes, answer_end: bytes, *, before: bytes = b"", websocket: bool, **options: object
) -> set[str]:
    """Return the files that `sent` passes, after `before` or the same has passed once."""
    passed = Passed()

    def play(port: int, in_server: InServer) -> None:
        with RawClient(port) as client:
            if websocket:
                client.open_websocket()
            client.send(before or sent)
            client.read_until(answer_end)
            in_server(lambda: sys.setprofile(passed.profile))
            client.send(sent)
            client.read_until(answer_end)
            in_server(lambda: sys.setprofile(None))

    serve_while(loop_name, play, **options)
    return passed.files


def test_frames_pass_the_files_of_their_walks(loop_name: str) -> None:
    frame_in, send_out = set(listed("A frame in")), set(listed("A send out"))
    alone = files_passed(loop_name, FRAME, ECHO, websocket=True)
    assert alone == frame_in
    burst = files_passed(loop_name, 9 * FRAME, 9 * ECHO, websocket=True)
    assert burst == (frame_in | send_out) - {"protocol/websocket/encoder.py"}  # short, and not compressed


def test_request_passes_the_files_of_its_walk(loop_name: str) -> None:
    other = GET.replace(b"*/*", b"text/html")
    options = {"access_log": True, "forwarded_allow_ips": ""}
    passed = files_passed(loop_name, GET, b"\r\n\r\n", before=other, websocket=False, **options)
    assert passed - {"protocol/http/fields.py"} == set(listed("An HTTP request"))
