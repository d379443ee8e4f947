"""What the user says of how a network is to be run: by which library, on which device, with how many threads."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from pipert_shm.errors import shown
from pipert_shm.limits import is_count

Backend = Literal["auto", "onnxruntime", "opencv", "openvino"]
Providers: TypeAlias = Sequence[str | tuple[str, Mapping[str, object]]]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"
MOST_THREADS = 1024
_DEVICE = re.compile(r"cpu|(cuda|tensorrt)(:\d+)?")
_OF_OPENVINO = re.compile(r"[A-Za-z][\w.:,()-]*")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which library runs a network, on which device. None leaves the choice to `load`.

    :raises ValueError: when a value makes no sense, or two don't go together.
    """

    backend: Backend = "auto"
    device: str | None = None
    providers: Providers | None = None
    cache_dir: str | os.PathLike[str] | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.backend not in get_args(Backend):
            raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, not {shown(self.backend)}")
        if self.providers is not None:
            self._check_providers()
        if self.device is not None:
            self._check_device(self.device)
        if self.threads is not None and not (is_count(self.threads) and self.threads <= MOST_THREADS):
            raise ValueError(f"threads must be a whole number from 1 to {MOST_THREADS}, not {shown(self.threads)}")
        if self.cache_dir is not None:
            self._check_cache_dir(self.cache_dir)

    @property
    def wants_onnxruntime(self) -> bool:
        """Whether only onnxruntime can do what is wanted."""
        return self.backend == "onnxruntime" or self.providers is not None or (self.device or "").startswith("tensorrt")

    def _check_providers(self) -> None:
        if self.device is not None:
            raise ValueError("give either a device or providers, which say on what the network is run in more detail")
        if self.backend in ("opencv", "openvino"):
            raise ValueError(f"providers are onnxruntime's: leave backend={self.backend!r} away")
        if isinstance(self.providers, str) or not self.providers or not all(map(_is_provider, self.providers)):
            raise ValueError(
                "providers are a list of names of onnxruntime's, or of a name with its options, such as "
                f"['CUDAExecutionProvider'] or [('CUDAExecutionProvider', {{'device_id': 1}})], not {shown(self.providers)}"
            )

    def _check_device(self, device: Any) -> None:
        if self.backend == "openvino":
            if not (isinstance(device, str) and _OF_OPENVINO.fullmatch(device)):
                raise ValueError(f"device must be one of OpenVINO's, such as 'CPU', 'GPU.1' or 'AUTO', not {shown(device)}")
            return
        if not (isinstance(device, str) and _DEVICE.fullmatch(device)):
            raise ValueError(
                f"device must be 'cpu', 'cuda' or 'tensorrt', the latter two as 'cuda:1' too, not {shown(device)}; others, "
                f"such as 'GPU', are OpenVINO's: backend='openvino'"
            )
        if self.backend == "opencv" and device.startswith("tensorrt"):
            raise ValueError("device='tensorrt' is for backend='onnxruntime'")

    def _check_cache_dir(self, directory: Any) -> None:
        if not isinstance(directory, str | os.PathLike) or not os.fspath(directory):
            raise ValueError(f"cache_dir is a directory, not {shown(directory)}")
        providers = [each if isinstance(each, str) else each[0] for each in self.providers or ()]
        compiles = self.backend == "openvino" or (self.device or "").startswith("tensorrt")
        if not compiles and TENSORRT not in providers and OPENVINO not in providers:
            raise ValueError(
                "cache_dir keeps what is compiled for a device, by device='tensorrt' or backend='openvino'; nothing else "
                "compiles, so leave it away"
            )

    def cache_of(self, model: Path) -> Path:
        """The directory in which TensorRT keeps the engine of this model."""
        return Path(self.cache_dir) if self.cache_dir is not None else model.with_suffix(".tensorrt")


def _is_provider(given: Any) -> bool:
    if isinstance(given, str):
        return True
    return isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], str) and isinstance(given[1], Mapping)
