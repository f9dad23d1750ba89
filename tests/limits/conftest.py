"""Fixtures: server processes, as the process tests have them, and descriptors for thousands of clients."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from tests.runner.conftest import processes, start

__all__ = ["many_files", "processes", "start"]

MANY_FILES = 10_500


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process, and the servers it starts, open 10,000 connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < MANY_FILES:
        pytest.skip(f"{MANY_FILES} open files are needed, the hard limit (ulimit -Hn) is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, MANY_FILES), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
