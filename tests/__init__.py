"""Tests of asgiws; what server processes of tests import must not need pytest."""

PATIENCE_S = 20.0
"""How long a test waits for what must happen; long, because it only matters when the test fails."""
