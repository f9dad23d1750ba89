"""The rolling restart: every worker is replaced, and no client is closed more than once.

    1. start        a successor in one slot after the other, beside the workers, on the same sockets; all serve now
    2. switch       all old workers stop accepting, and confirm it; new connections reach new workers from now on
    3. drain        all old workers drain; clients that are closed reconnect to workers that stay

Until the switch no client is closed and every old worker serves. So a successor that does not start ends the restart:
the others drain, and the old workers continue. The price is memory: old and new workers exist at the same time. An
operator who lacks it sends SIGTERM to one worker after the other, which replaces each alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from asgiws.config.options import Config
from asgiws.telemetry.logs import LOG
from asgiws.workers.respawn import Slot
from asgiws.workers.worker_process import WorkerProcess

__all__ = ["prepare_successors", "switch_over"]


async def prepare_successors(slots: Sequence[Slot], config: Config, interrupted: Callable[[], bool]) -> bool:
    """Start a successor with these options in every slot; return whether all serve.

    Slots may be added and removed meanwhile. `interrupted` returns whether another order replaces this one. When a
    successor does not start, the others are drained.
    """
    tried: set[Slot] = set()
    while slot := next((slot for slot in slots if not slot.is_prepared(config)), None):
        # One that served and no longer does has died.
        started = slot not in tried and await slot.prepare(config)
        tried.add(slot)
        failed = not started and slot in slots  # and was not taken away meanwhile
        if failed or interrupted():
            for each in slots:
                each.discard_successor()
            if not interrupted():
                LOG.error("rolling restart given up; the old workers go on")
            return False
    return True


async def switch_over(slots: Sequence[Slot]) -> list[WorkerProcess]:
    """Replace all workers by their successors at the same time; return the workers that drain."""
    await asyncio.gather(*(slot.stop_accepting() for slot in slots))
    replaced = [slot.take_over("reload") for slot in slots]
    return [worker for worker in replaced if worker is not None]
