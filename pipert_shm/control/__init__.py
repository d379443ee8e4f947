"""What the processes of a pipe say to each other: the messages, the channels that carry them, and who handles which."""
