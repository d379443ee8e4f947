"""What stands between a pipe and its HTTP clients: who may ask, and how long a server waits for whom."""
