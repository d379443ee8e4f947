"""What do we ask of the operating system, and what does it refuse?

Calls that may fail, file descriptors, forked processes, signals, streams, the program's end.
"""
