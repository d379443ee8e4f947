"""When a flow is restarted: its restart policy, applied to a death or to a start that failed.

Both count towards the limit of the policy, and each one doubles the pause before the next start.
"""

from __future__ import annotations

import time

from pipert_shm.graph.model import Restart
from pipert_shm.launcher.roster import Flow
from pipert_shm.shm.states import EndReason

FIRST_PAUSE = 0.02  # seconds after a death, doubled with each further one within the window
FIRST_PAUSE_OF_STARTS = 0.5  # likewise after a start that failed: what the system lacks does not come back so soon
LONGEST_PAUSE = 10.0


def pause_after_death(flow: Flow, restart: Restart) -> float | None:
    """Seconds until a flow that died is forked again; None when it is not restarted."""
    if flow.came_up and flow.ended_by is EndReason.ORDER:
        return 0.0
    return _pause(flow, restart, FIRST_PAUSE, wanted=restart.wanted(flow.exit_code))


def pause_after_failed_start(flow: Flow, restart: Restart) -> float | None:
    """Seconds until a flow that could not be forked gets another try; None when it gets none."""
    return _pause(flow, restart, FIRST_PAUSE_OF_STARTS, wanted=flow.server is None or not flow.server.dead)


def _pause(flow: Flow, restart: Restart, first: float, *, wanted: bool) -> float | None:
    now = time.monotonic()
    flow.deaths = [death for death in flow.deaths if now - death < restart.window] + [now]
    deaths = len(flow.deaths)
    if not (flow.came_up and wanted and deaths <= restart.limit):
        return None
    return min(LONGEST_PAUSE, first * 2.0 ** min(deaths - 1, 30))  # a float has no room for more than 1,023
