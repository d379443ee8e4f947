"""`python -m pipert_shm.cli` is `pipert-shm`."""

import sys

from pipert_shm.cli import main

if __name__ == "__main__":
    sys.exit(main())
