"""Loads networks in ONNX format, and runs them with OpenCV or onnxruntime."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from pipert_shm.errors import shown
from pipert_shm.extras import to_install
from pipert_shm.video.opencv import cv2

Backend = Literal["auto", "opencv", "onnxruntime"]
Providers: TypeAlias = Sequence[str | tuple[str, Mapping[str, object]]]
Run: TypeAlias = Callable[[np.ndarray], Sequence[np.ndarray]]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_DEVICE = re.compile(r"(cpu)|(cuda|tensorrt)(?::(\d+))?")
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True, slots=True)
class Choice:
    """Which backend runs a network, and on which device. None leaves the choice to `load`.

    :raises ValueError: when a value makes no sense, or two don't go together.
    """

    backend: Backend = "auto"
    device: str | None = None
    providers: Providers | None = None

    def __post_init__(self) -> None:
        if self.backend not in get_args(Backend):
            raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, not {shown(self.backend)}")
        if self.device is not None and not (isinstance(self.device, str) and _DEVICE.fullmatch(self.device)):
            raise ValueError(
                f"device must be 'cpu', 'cuda' or 'tensorrt', the latter two as 'cuda:1' too, not {shown(self.device)}"
            )
        if self.providers is not None:
            self._check_providers()
        if self.backend == "opencv" and self.device is not None and self.device.startswith("tensorrt"):
            raise ValueError("device='tensorrt' is for backend='onnxruntime'")

    def _check_providers(self) -> None:
        if self.device is not None:
            raise ValueError("give either a device or providers, which say on what the network is run in more detail")
        if self.backend == "opencv":
            raise ValueError("providers are onnxruntime's: leave backend='opencv' away")
        if isinstance(self.providers, str) or not self.providers or not all(map(_is_provider, self.providers)):
            raise ValueError(
                "providers are a list of names of onnxruntime's, or of a name with its options, such as "
                f"['CUDAExecutionProvider'] or [('CUDAExecutionProvider', {{'device_id': 1}})], not {shown(self.providers)}"
            )


def _is_provider(given: Any) -> bool:
    if isinstance(given, str):
        return True
    return isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], str) and isinstance(given[1], Mapping)


@dataclass(frozen=True, slots=True)
class Network:
    """A network that is loaded.

    Attributes:
        run: takes (batch, 3, height, width) float32, and returns the outputs, whose first axis is the batch.
        backend: `opencv` or `onnxruntime`.
        providers: onnxruntime's providers in the order in which it asks them; with OpenCV `cpu` or `cuda`.
        trial: the outputs for one image, which is black on the left and white on the right.
        notes: warnings for the user.
    """

    run: Run
    backend: str
    providers: tuple[str, ...]
    trial: Sequence[np.ndarray]
    notes: tuple[str, ...] = ()


def load(model: Path, size: tuple[int, int], choice: Choice) -> Network:
    """Loads a network, and runs it once.

    :param size: width and height of its input, pixels.
    :raises ValueError: when the network can't be read, or can't be run on the wanted device.
    :raises ImportError: when the backend is not installed.
    """
    if choice.backend == "onnxruntime" or choice.providers is not None or (choice.device or "").startswith("tensorrt"):
        return _onnxruntime(model, size, choice)
    try:
        return _opencv(model, size, choice.device or "cpu")
    except ValueError as error:
        if choice.backend == "opencv":
            raise ValueError(f"{error}; backend='onnxruntime' may") from error
        if find_spec("onnxruntime") is None:
            raise ValueError(f"{error}; onnxruntime may: {to_install('onnx')}") from error
        refusal = str(error)
    network = _onnxruntime(model, size, choice)
    return replace(network, notes=(f"{refusal}; so onnxruntime runs it", *network.notes))


def _image(size: tuple[int, int]) -> np.ndarray:
    return np.broadcast_to(np.linspace(0, 1, size[0], dtype=np.float32), (1, 3, size[1], size[0])).copy()


# ---- OpenCV --------------------------------------------------------------------------------------


def _opencv(model: Path, size: tuple[int, int], device: str) -> Network:
    try:
        network = cv2.dnn.readNetFromONNX(str(model))
        outputs = network.getUnconnectedOutLayersNames()
    except cv2.error as error:
        raise ValueError(f"OpenCV can't read the model {str(model)!r}: {_said(error)}") from error
    if device != "cpu":
        _use_cuda(network, device)

    def run(image: np.ndarray) -> Sequence[np.ndarray]:
        network.setInput(image)
        return network.forward(outputs)

    try:
        trial = run(_image(size))
    except cv2.error as error:
        raise ValueError(f"OpenCV can't run the model {str(model)!r} on {size[0]}x{size[1]} pixels: {_said(error)}") from error
    # OpenCV 4.14 gives wrong results after the batch size has changed. One by one is not slower.
    return Network(_one_by_one(run), "opencv", ("cpu" if device == "cpu" else "cuda",), trial)


def _said(error: cv2.error) -> str:
    return " ".join(str(error.err).split())


def _use_cuda(network: cv2.dnn.Net, device: str) -> None:
    if cv2.dnn.DNN_TARGET_CUDA not in cv2.dnn.getAvailableTargets(cv2.dnn.DNN_BACKEND_CUDA):
        raise ValueError(f"this OpenCV has no {device!r}: it was built without CUDA, or there is no such device")
    cv2.cuda.setDevice(int(device.partition(":")[2] or 0))
    network.setPreferableBackend(cv2.dnn.DNN_BACKEND_CUDA)
    network.setPreferableTarget(cv2.dnn.DNN_TARGET_CUDA)


def _one_by_one(run: Run) -> Run:
    def run_all(blob: np.ndarray) -> Sequence[np.ndarray]:
        results = [run(blob[number : number + 1]) for number in range(len(blob))]
        return [np.concatenate(outputs) for outputs in zip(*results, strict=True)]

    return run_all


# ---- onnxruntime ---------------------------------------------------------------------------------


def _onnxruntime(model: Path, size: tuple[int, int], choice: Choice) -> Network:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would keep a database, and report to its maker
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ImportError(f"onnxruntime is not installed ({error}): {to_install('onnx')}") from error
    providers, notes = wanted_providers(choice, onnxruntime.get_available_providers(), model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # its exceptions have no common class of their own
        raise ValueError(f"onnxruntime can't read the model {str(model)!r}: {error}") from error
    in_use = tuple(session.get_providers())
    wanted = [name for name, _ in providers]
    if choice.device not in (None, "cpu") or choice.providers is not None:
        _check_in_use(wanted, in_use)
    dtype, batch = _input(session, model, size)
    name = session.get_inputs()[0].name

    def run(blob: np.ndarray) -> Sequence[np.ndarray]:
        outputs: list[Any] = session.run(None, {name: blob.astype(dtype, copy=False)})
        return outputs

    try:
        trial = run(_image(size))
    except Exception as error:  # as above
        raise ValueError(f"onnxruntime can't run the model {str(model)!r} on {size[0]}x{size[1]} pixels: {error}") from error
    if lacking := [each for each in wanted if each not in in_use]:
        notes = [*notes, f"onnxruntime does without {', '.join(lacking)}, which it can't load"]
    return Network(_one_by_one(run) if batch == 1 else run, "onnxruntime", in_use, trial, tuple(notes))


def wanted_providers(
    choice: Choice, available: Sequence[str], model: Path
) -> tuple[list[tuple[str, dict[str, object]]], list[str]]:
    """Returns the providers to ask for, with their options, and notes for the user.

    By default these are CUDA, if this onnxruntime has it, and the CPU. TensorRT must be asked for, since it takes minutes to
    build an engine; the engine is kept then.

    :raises ValueError: when this onnxruntime does not have a provider that was asked for.
    """
    wanted: list[tuple[str, dict[str, object]]]
    if choice.providers is not None:
        wanted = [(each, {}) if isinstance(each, str) else (each[0], dict(each[1])) for each in choice.providers]
    elif choice.device is not None:
        wanted = _of_device(*choice.device.partition(":")[::2])
    else:
        wanted = [(name, {}) for name in (CUDA, CPU) if name in available]
    if lacking := [name for name, _ in wanted if name not in available]:
        raise ValueError(f"this onnxruntime has no {', '.join(lacking)}; it has: {', '.join(available)}")
    notes = []
    for name, given in wanted:
        if name == TENSORRT:
            notes.append(_with_engine_kept(given, model))
    return wanted, notes


def _of_device(kind: str, number: str) -> list[tuple[str, dict[str, object]]]:
    """The providers of a device, and those that run what it can't."""
    names = {"cpu": [], "cuda": [CUDA], "tensorrt": [TENSORRT, CUDA]}[kind]
    wanted: list[tuple[str, dict[str, object]]] = [(name, {"device_id": int(number or 0)}) for name in names]
    return [*wanted, (CPU, {})]


def _with_engine_kept(options: dict[str, object], model: Path) -> str:
    """Makes TensorRT keep its engine, and says where."""
    if "trt_engine_cache_enable" not in options:
        options["trt_engine_cache_enable"] = True
        options.setdefault("trt_engine_cache_path", str(model.with_suffix(".tensorrt")))
    if str(options["trt_engine_cache_enable"]).lower() not in ("true", "1"):
        return "TensorRT builds its engine anew at each start, which may take minutes: trt_engine_cache_enable is off"
    kept = options.get("trt_engine_cache_path", "the working directory")
    return f"TensorRT builds its engine at the first start, which may take minutes, and keeps it in {kept}"


def _check_in_use(wanted: Sequence[str], in_use: Sequence[str]) -> None:
    """:raises ValueError: when the first wanted provider could not be loaded. onnxruntime itself would go on without it."""
    if wanted[0] not in in_use:
        raise ValueError(
            f"onnxruntime can't load {wanted[0]}, and would use {', '.join(in_use)}: its log, above, says what is missing; "
            f"leave it away from device or providers where that will do"
        )


def _input(session: Any, model: Path, size: tuple[int, int]) -> tuple[Any, Any]:
    """Returns the dtype and the batch axis of the network's input.

    :raises ValueError: when the input is not (batch, 3, height, width) of this size.
    """
    inputs = session.get_inputs()
    shapes = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _TYPES:
        raise ValueError(
            f"the model {str(model)!r} takes {shapes}; it must take one image of floats, (batch, 3, height, width)"
        )
    batch, channels, height, width = inputs[0].shape
    if isinstance(channels, int) and channels != 3:
        raise ValueError(f"the model {str(model)!r} takes {shapes}; it must take three channels, (batch, 3, height, width)")
    if isinstance(batch, int) and batch != 1:
        raise ValueError(f"the model {str(model)!r} takes batches of {batch} only; export it with a free batch axis, or of 1")
    fixed = (width if isinstance(width, int) else size[0], height if isinstance(height, int) else size[1])
    if fixed != tuple(size):
        raise ValueError(
            f"the model {str(model)!r} takes {fixed[0]}x{fixed[1]} pixels, not {size[0]}x{size[1]}: give size={fixed}"
        )
    return _TYPES[inputs[0].type], batch
