"""What does `pipert-shm` do? A module for each command; what a command needs is imported when it is called."""

from pipert_shm.cli.commands import main

__all__ = ["main"]
