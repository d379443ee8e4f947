"""What starts the hub and the agents of a pipeline: manifests for cluster managers, by `pipert-shm export`.

From below: `deployment` (what has to run where, with how much memory, and which certificates), and `compose`, `kubernetes` and
`systemd`, which write it down for each.
"""
