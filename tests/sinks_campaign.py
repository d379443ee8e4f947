"""Kills a sink's process, and now and then its server, at random moments: `python tests/sinks_campaign.py --kills 30`.

A process feeds a `WebhookSink` with numbers, and says of each that it was taken. In the end the server must have all of them,
in order. How many came twice is told.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from sink_servers import requests_of, web_server
from waiting import eventually

WRITER = """
import itertools, logging, sys, time
from pipert_shm import WebhookSink

sink = WebhookSink(sys.argv[1], "hook", spool={"path": sys.argv[2], "max_bytes": 1 << 20}, batch=20)
sink.setup()
for number in itertools.count(int(sys.argv[3])):
    if number == int(sys.argv[4]):
        break
    sink.main_logic({"number": number})
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    time.sleep(0.002)
while sink.counters["waiting"]:
    time.sleep(0.01)
sink.cleanup()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    chance = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory(prefix="sinks-campaign-") as place:
        directory = Path(place)
        server, port, file = web_server(directory)
        taken, served = 0, 0
        try:
            for turn in range(chosen.kills + 1):
                is_last = turn == chosen.kills
                end = taken + 100 if is_last else 1 << 40
                command = [
                    sys.executable,
                    "-c",
                    WRITER,
                    f"http://127.0.0.1:{port}/",
                    str(directory / "spool"),
                    str(taken),
                    str(end),
                ]
                with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ) as process:
                    assert process.stdout is not None
                    lines = [process.stdout.readline()]
                    if not is_last:
                        time.sleep(chance.uniform(0, 0.5))
                        if chance.random() < 0.3:
                            server.kill()
                            served += 1
                        time.sleep(chance.uniform(0, 0.2))
                        process.send_signal(signal.SIGKILL)
                    lines += process.stdout.read().split(b"\n")
                # The one in hand when the process died may have been taken, too: the next process goes on behind it.
                taken = max(int(line) for line in lines if line.strip()) + 2
                if server.process is None:
                    server.start()
            got = [told["number"] for request in requests_of(file) for told in json.loads(request["body"])]
            eventually(lambda: bool(got))
        finally:
            server.kill()
    report(taken, got, chosen.kills, served)


def report(taken: int, got: list[int], kills: int, served: int) -> None:
    firsts = list(dict.fromkeys(got))
    assert firsts == sorted(firsts), "out of order"
    # Between two processes one number is left out, which only the killed one may have taken.
    missing = sorted(set(range(taken - 1)) - set(firsts))
    assert len(missing) <= kills, missing
    assert all(later - earlier > 1 for earlier, later in pairwise(missing)), missing
    print(f"{kills} kills of the sink, {served} of the server: {len(firsts)} in order, {len(got) - len(firsts)} again")


if __name__ == "__main__":
    main()
