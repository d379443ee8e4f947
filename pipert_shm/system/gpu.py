"""GPU memory that processes take, where the package nvidia-ml-py and NVIDIA's library NVML are there."""

from __future__ import annotations

import importlib.util
import logging
import threading
import time
from collections import Counter
from importlib import import_module
from types import ModuleType
from typing import Any

REFRESH = 1.0  # seconds that figures are kept: to ask the driver takes milliseconds

_logger = logging.getLogger(__name__)


class Gpus:
    """Asks NVML which process takes how much memory on all GPUs together. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nvml: ModuleType | None = None
        self._was_opened = False
        self._read_at = 0.0
        self._by_pid: dict[int, int] = {}

    def bytes_of(self, pid: int) -> int | None:
        """The bytes that a process takes; None where NVML is not there, or tells of no such process."""
        with self._lock:
            if not self._was_opened:
                self._open()
            if self._nvml is not None and not (self._read_at and time.monotonic() - self._read_at < REFRESH):
                self._read(self._nvml)
            return self._by_pid.get(pid)

    def _open(self) -> None:
        self._was_opened = True
        if importlib.util.find_spec("pynvml") is None:
            return
        try:
            nvml = import_module("pynvml")
            nvml.nvmlInit()
        except Exception as error:  # of any kind: the module is not ours, and NVML's errors are its own classes
            _logger.info("there are no figures of GPUs: NVML can't be used: %s", error)
            return
        self._nvml = nvml

    def _read(self, nvml: Any) -> None:
        self._read_at = time.monotonic()
        total: Counter[int] = Counter()
        try:
            for number in range(nvml.nvmlDeviceGetCount()):
                total.update(_on_one(nvml, nvml.nvmlDeviceGetHandleByIndex(number)))
        except nvml.NVMLError as error:
            _logger.warning("there are no figures of GPUs any more: NVML fails: %s", error)
            self._nvml, total = None, Counter()
        self._by_pid = dict(total)


def _on_one(nvml: Any, device: Any) -> dict[int, int]:
    """Bytes by pid on one GPU. A process that computes and draws is in both lists, with the same number."""
    found: dict[int, int] = {}
    for process in [*nvml.nvmlDeviceGetComputeRunningProcesses(device), *nvml.nvmlDeviceGetGraphicsRunningProcesses(device)]:
        if process.usedGpuMemory is not None:  # the driver does not tell on some systems
            found[process.pid] = max(found.get(process.pid, 0), process.usedGpuMemory)
    return found


gpus = Gpus()
