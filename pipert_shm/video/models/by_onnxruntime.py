"""Runs networks with onnxruntime, on the execution providers that are asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pipert_shm.extras import to_install
from pipert_shm.video.models.choice import CPU, CUDA, OPENVINO, TENSORRT, Choice
from pipert_shm.video.models.description import ModelDescription, TensorInfo
from pipert_shm.video.models.runtime import (
    More,
    Outputs,
    Run,
    Runtime,
    Size,
    Wanted,
    check_input,
    input_size,
    one_by_one,
    trial_image,
)


def by_onnxruntime(wanted: Wanted) -> Runtime:
    """Loads a network, and runs it once.

    :raises ValueError: when onnxruntime can't read or run it, or lacks a provider that was asked for.
    :raises ImportError: when it is not installed.
    """
    onnxruntime, choice = _imported(), wanted.choice
    asked, notes = wanted_providers(choice, onnxruntime.get_available_providers(), wanted.model)
    if any(name == TENSORRT for name, _ in asked):
        first = _session(onnxruntime, wanted.model, [(CPU, {})], choice.threads, optimised=False)
        plan_engine(asked, *_input_of(first, wanted)[1:], wanted.batch)
    session = _session(onnxruntime, wanted.model, asked, choice.threads)
    in_use, names = tuple(session.get_providers()), [name for name, _ in asked]
    if choice.device not in (None, "cpu") or choice.providers is not None:
        _check_in_use(names, in_use)
    if lacking := [each for each in names if each not in in_use]:
        notes.append(f"onnxruntime does without {', '.join(lacking)}, which it can't load")
    description, image, size = _input_of(session, wanted)
    run, whole = _run_of(session, image), image.shape[0] != 1
    trial = _tried(run, wanted, description, size, 1)
    if whole and in_use[0] != CPU and wanted.batch > 1:  # a device takes memory and chooses its ways at the first run of a size
        _tried(run, wanted, description, size, wanted.batch)
    run = run if whole else one_by_one(run)
    return Runtime(run, size, "onnxruntime", in_use, trial, description.with_outputs(trial), tuple(notes))


def _imported() -> ModuleType:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would keep a database, and report to its maker
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ImportError(f"onnxruntime is not installed ({error}): {to_install('onnx')}") from error
    module: ModuleType = onnxruntime
    return module


def _session(onnxruntime: Any, model: Path, providers: Sequence[Any], threads: int | None, *, optimised: bool = True) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    # Its threads would go on spinning after a run, which costs a camera's detector more than the runs themselves.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # its exceptions have no common class of their own
        raise ValueError(f"onnxruntime can't read the model {str(model)!r}: {error}") from error


def _input_of(session: Any, wanted: Wanted) -> tuple[ModelDescription, TensorInfo, Size]:
    description = ModelDescription.of_session(session, str(wanted.model))
    told = wanted.size or description.size or (1, 1)  # only the names count here
    image = check_input(description, wanted.model, wanted.more_inputs(description, 1, told))
    return description, image, input_size(image, wanted, description.size)


def _run_of(session: Any, image: TensorInfo) -> Run:
    name, dtype = image.name, np.dtype(image.dtype)

    def run(blob: np.ndarray, more: More) -> Outputs:
        outputs: Outputs = session.run(None, {name: blob.astype(dtype, copy=False), **more})
        return outputs

    return run


def _tried(run: Run, wanted: Wanted, description: ModelDescription, size: Size, count: int) -> Outputs:
    try:
        return run(np.repeat(trial_image(size), count, 0), wanted.more_inputs(description, count, size))
    except Exception as error:  # as above
        raise ValueError(
            f"onnxruntime can't run the model {str(wanted.model)!r} on {size[0]}x{size[1]} pixels: {error}"
        ) from error


# ---- providers -----------------------------------------------------------------------------------


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
            notes.append(_with_engine_kept(given, choice.cache_of(model)))
        if name == OPENVINO and choice.cache_dir is not None:
            given.setdefault("cache_dir", str(choice.cache_dir))
    return wanted, notes


def _of_device(kind: str, number: str) -> list[tuple[str, dict[str, object]]]:
    """The providers of a device, and those that run what it can't."""
    names = {"cpu": [], "cuda": [CUDA], "tensorrt": [TENSORRT, CUDA]}[kind]
    wanted: list[tuple[str, dict[str, object]]] = [(name, {"device_id": int(number or 0)}) for name in names]
    return [*wanted, (CPU, {})]


def _with_engine_kept(options: dict[str, object], directory: Path) -> str:
    """Makes TensorRT keep its engine, and says where."""
    if "trt_engine_cache_enable" not in options:
        options["trt_engine_cache_enable"] = True
        options.setdefault("trt_engine_cache_path", str(directory))
    if str(options["trt_engine_cache_enable"]).lower() not in ("true", "1"):
        return "TensorRT builds its engine anew at each start, which may take minutes: trt_engine_cache_enable is off"
    kept = options.get("trt_engine_cache_path", "the working directory")
    return f"TensorRT builds its engine at the first start, which may take minutes, and keeps it in {kept}"


def plan_engine(asked: Sequence[tuple[str, dict[str, object]]], image: TensorInfo, size: Size, batch: int) -> None:
    """Tells TensorRT of all batches at once. It would build another engine, for minutes, at the first frames of each size else.

    :param asked: the providers with their options, which are changed.
    :param image: the network's input.
    """
    if all(isinstance(side, int) for side in image.shape):
        return
    for name, options in asked:
        if name == TENSORRT and not any(each.startswith("trt_profile_") for each in options):
            for which, count in (("min", 1), ("opt", batch), ("max", batch)):
                options[f"trt_profile_{which}_shapes"] = f"{image.name}:{count}x3x{size[1]}x{size[0]}"


def _check_in_use(wanted: Sequence[str], in_use: Sequence[str]) -> None:
    """:raises ValueError: when the first wanted provider could not be loaded. onnxruntime itself would go on without it."""
    if wanted[0] not in in_use:
        raise ValueError(
            f"onnxruntime can't load {wanted[0]}, and would use {', '.join(in_use)}: its log, above, says what is missing; "
            f"leave it away from device or providers where that will do"
        )
