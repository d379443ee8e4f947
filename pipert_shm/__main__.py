"""`python -m pipert_shm`: the command line, where the program `pipert-shm` is not on the path."""

import sys

from pipert_shm.cli import main

if __name__ == "__main__":
    sys.exit(main())
