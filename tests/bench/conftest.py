"""Fixtures: descriptors for thousands of clients, as the tests of the limits have them."""

from __future__ import annotations

from tests.limits.conftest import many_files

__all__ = ["many_files"]
