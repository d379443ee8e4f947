"""What runs in a flow's process? The control thread, a thread for each routine, and one for event handlers."""
