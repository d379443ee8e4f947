"""Stands for the process of an agent's part, without frames: `FILE OUTCOME LOCK READY`, as `pipert_shm.cli.part` takes them."""

import os
import signal
import sys


def main(file: str, outcome: str, lock: str, ready: str) -> None:
    """Runs until SIGTERM. At SIGUSR1 it has come to its end."""

    def tell(text: str) -> None:
        with open(f"{outcome}.new", "w") as part:
            part.write(text)
        os.replace(f"{outcome}.new", outcome)

    os.pwrite(int(lock), str(os.getpid()).encode(), 0)
    with open(file) as given:
        text = given.read()
    if "FAIL" in text:
        tell('{"state": "failed", "error": "it fails", "faults": [["routines.times.class", "it fails"]]}')
        sys.exit(1)

    def end(*_: object) -> None:
        tell('{"state": "ended"}')
        sys.exit(0)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGUSR1, end)
    tell('{"state": "up", "pipe_id": "000000000000"}')
    os.write(int(ready), b"u")
    while True:
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
