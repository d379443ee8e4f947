"""HTTP beside a running pipe: control, statistics, metrics, what happens, previews and the dashboard.

`app` puts the application together, and `server` runs it; `control` has the routes, `models` what they take and answer, `guard`
who may ask. All of it lives in the process that built the pipe, so a flow that dies takes nothing of it along.
"""

from pipert_shm.api.app import create_app
from pipert_shm.api.server import APIWrapper

__all__ = ["APIWrapper", "create_app"]
