"""Programs that others wrote, as the tests run them: where they are, their configuration, and where they listen."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest


def find_program(name: str, package: str = "") -> str:
    """Give the path of a program; without it the test is skipped."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install {package or name}")
    return path


def edited(text: str, *edits: Mapping[str, str] | None) -> str:
    """Replace in a configuration that we ship; what is to be replaced must be there."""
    for old, new in [edit for part in edits for edit in (part or {}).items()]:
        assert old in text, f"the configuration has no {old!r}"
        text = text.replace(old, new)
    return text


@contextmanager
def reserved_port(host: str = "127.0.0.1") -> Iterator[int]:
    """Give a port that nobody else is given; who sets SO_REUSEADDR too may bind it, as long as nobody listens."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((host, 0))
        yield int(reserved.getsockname()[1])
