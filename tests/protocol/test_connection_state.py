"""The table of the states of an HTTP connection."""

from __future__ import annotations

import pytest

from asgiws.protocol.http.connection_state import NEXT, Moved, State

WAITING = (State.NEW, State.IDLE, State.HEAD)


def test_every_state_can_be_reached_and_left() -> None:
    reached, left = {State.NEW}, {before for (before, _), after in NEXT.items() if after != before}
    while more := {after for (before, _), after in NEXT.items() if before in reached} - reached:
        reached |= more
    assert reached == left | {State.CLOSED} == set(range(State.CLOSED + 1))


@pytest.mark.parametrize("state", WAITING)
def test_request_begins_only_where_one_is_awaited(state: int) -> None:
    """RFC 9112 §9.3.2: requests are answered in order, so the next does not begin before the response is written."""
    assert NEXT[state, Moved.REQUEST_BEGAN] == State.REQUEST
    assert {before for before, moved in NEXT if moved in (Moved.REQUEST_BEGAN, Moved.UPGRADE)} == set(WAITING)


def test_no_request_follows_the_last_response() -> None:
    """RFC 9112 §9.6: the server MUST NOT process any further requests on that connection."""
    assert {moved for before, moved in NEXT if before == State.LINGERING} == {Moved.TCP_LOST}
    assert {moved for before, moved in NEXT if before == State.UPGRADED} == {Moved.TCP_LOST}


@pytest.mark.parametrize("state", range(State.CLOSED + 1))
def test_tcp_can_be_lost_in_every_state(state: int) -> None:
    assert NEXT[state, Moved.TCP_LOST] == State.CLOSED
