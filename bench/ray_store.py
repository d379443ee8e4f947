"""Ray's object store, between two drivers of one cluster that each round starts for itself."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from .peers import Hand, Pair
from .processes import adopt_orphans, end_orphans
from .sheet import DEPTH, FRAMES, Load

QUEUE = "frames"
SMALLEST_STORE = 80_000_000  # bytes; it takes no smaller one
HELD = 24  # frames for which there is room: it frees what nobody holds any more a while later


class Ray(Pair):
    """A `ray.util.queue.Queue` of references to objects that lie ready in the store, whose views `ray.get()` gives."""

    copies = False

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self._directory = tempfile.TemporaryDirectory(prefix="bench-")
        self._address = Path(self._directory.name, "address")
        self._token = uuid4().hex  # else ray makes one that the other driver does not know, and keeps it in the home directory
        adopt_orphans()

    def _join(self, **how: Any) -> Any:
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self._token}
        import ray

        ray.init(namespace="bench", log_to_driver=False, logging_level="error", **how)
        Finalize(None, ray.shutdown, exitpriority=0)  # ray uses `atexit`, which no process of multiprocessing runs
        return ray

    def sender(self) -> Callable[[int], Hand]:
        ray = self._join(
            num_cpus=1,
            include_dashboard=False,
            object_store_memory=max(SMALLEST_STORE, HELD * self.load.frame_bytes),
            _temp_dir=self._directory.name,
        )
        from ray.util.queue import Queue

        queue = Queue(DEPTH, {"name": QUEUE})
        queue.size()  # answers once its process runs
        whole = self._address.with_suffix(".new")
        whole.write_text(ray.get_runtime_context().gcs_address)
        whole.rename(self._address)
        frames = self.load.frames()
        # References go in a list: the queue's process would fetch a bare one, and put a copy of its frame.
        if self.copies:
            warm = [ray.put(frames[0]) for _ in range(HELD - 4)]  # else the first turn through the store pays for its pages
            del warm
            return lambda number: lambda: queue.put([ray.put(frames[number % FRAMES])])
        references = [ray.put(frame) for frame in frames]
        return lambda number: lambda: queue.put([references[number % FRAMES]])

    def receiver(self, ready: Callable[[], None]) -> Iterator[np.ndarray]:
        while not self._address.exists():
            time.sleep(0.001)
        ray = self._join(address=self._address.read_text())
        queue = ray.get_actor(QUEUE)  # what `Queue` stands before; it can't be made from a name
        ready()
        while True:
            (reference,) = ray.get(queue.get.remote())
            yield ray.get(reference)

    def close(self) -> None:
        end_orphans()
        self._directory.cleanup()


class RayCopy(Ray):
    """The same, when the frame lies in the sender's own memory."""

    copies = True
