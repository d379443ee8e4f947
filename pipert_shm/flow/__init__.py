"""What runs in a flow's process: the control thread (process), the thread that calls handlers of events (handling)."""
