"""Fixtures: an authority, a server certificate, a client certificate, and server processes."""

from __future__ import annotations

import pytest

from tests.runner.conftest import processes, run_command, start
from tests.tls.certificates import Authority, Issued

__all__ = ["processes", "run_command", "start"]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def server(authority: Authority) -> Issued:
    """The certificate of localhost; tests that change its files make their own."""
    return authority.issue("localhost")


@pytest.fixture(scope="session")
def client(authority: Authority) -> Issued:
    return authority.issue("alice@example.com", organization='Cheese, "Ltd"', common_name="Alice")
