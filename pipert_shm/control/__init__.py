"""What do the processes of a pipe say to each other? The messages, the channels that carry them, and log records."""
