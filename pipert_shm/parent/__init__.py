"""What does the process that built a pipe do for it?

It keeps the memory, asks the launcher and hears it, holds the taps, and sees to the pipe's end.
"""
