"""A script whose camera and screen say what they do, for tests of how scripts end."""

from __future__ import annotations

SCRIPT = """
import os, sys, time
import numpy as np
from pipert_shm import *  # noqa: F403
from pipert_shm import EndOfStream, Pipe, Wire

class Camera(SourceRoutine):
    number = 0
    until = None
    def main_logic(self):
        if self.number == self.until:
            raise EndOfStream
        self.number += 1
        time.sleep(0.01)
        return np.full((100, 100), self.number % 256, np.uint8)
    def cleanup(self):
        print("camera cleaned up")

class Show(DestinationRoutine):
    def main_logic(self, data):
        print("frame")
    def cleanup(self):
        print("show cleaned up")

def make(**options):
    pipe = Pipe(policy="block", **options)
    camera, show = Camera("camera"), Show("show")
    pipe.create_flow("a", False, camera)
    pipe.create_flow("b", False, show)
    pipe.link(Wire(camera, show))
    return pipe, camera, show
""".replace(
    "from pipert_shm import *  # noqa: F403",
    "from pipert_shm import DestinationRoutine, SourceRoutine, START_EVENT_NAME",
)
CLEANED_UP = {"camera cleaned up", "show cleaned up"}
