"""Runs networks with OpenVINO, on Intel's processors and graphics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipert_shm.extras import to_install
from pipert_shm.video.models.choice import Choice
from pipert_shm.video.models.description import ModelDescription, TensorInfo
from pipert_shm.video.models.runtime import (
    USUAL_SIZE,
    More,
    Outputs,
    Runtime,
    Size,
    Wanted,
    check_input,
    one_by_one,
    trial_image,
)

if TYPE_CHECKING:
    import openvino


def by_openvino(wanted: Wanted) -> Runtime:
    """Loads a network, as ONNX or in OpenVINO's own format, and runs it once.

    A network that its file gives a fixed size gets the wanted one, if its operators allow that.

    :raises ValueError: when OpenVINO can't read or run it, or has no such device.
    :raises ImportError: when it is not installed.
    """
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise ImportError(f"openvino is not installed ({error}): {to_install('openvino')}") from error
    core, model = openvino.Core(), wanted.model
    device = (wanted.choice.device or "AUTO").upper()
    _check_device(device, core.available_devices)
    try:
        network = core.read_model(model)
    except RuntimeError as error:
        raise ValueError(f"OpenVINO can't read the model {str(model)!r}: {_said(error)}") from error
    told = _description(network, model)
    size = wanted.size or told.size or USUAL_SIZE
    more = wanted.more_inputs(told, 1, size)
    image = check_input(told, model, more, any_batch=True)
    most = 1 if isinstance(image.shape[0], int) else wanted.batch
    try:
        network.reshape(_shapes(openvino, told, image, most, size, more))
        compiled = core.compile_model(network, device, _settings(wanted.choice))
        run = _run_of(compiled.create_infer_request(), image.name)
        trial = run(trial_image(size), more)
    except RuntimeError as error:
        raise ValueError(
            f"OpenVINO can't run the model {str(model)!r} on {size[0]}x{size[1]} pixels, on {device}: {_said(error)}"
        ) from error
    devices = tuple(compiled.get_property("EXECUTION_DEVICES"))
    run = run if most > 1 else one_by_one(run)
    return Runtime(run, size, "openvino", devices, trial, told.with_outputs(trial))


def _check_device(device: str, available: list[str]) -> None:
    """:raises ValueError: when the device is not there. AUTO, and such as name several, are OpenVINO's to judge."""
    virtual = device.partition(":")[0] in ("AUTO", "MULTI", "HETERO", "BATCH")
    if not virtual and not any(device == each or each.startswith(f"{device}.") for each in available):
        raise ValueError(f"this OpenVINO has no {device}; it has: {', '.join(available)}, and AUTO")


def _said(error: RuntimeError) -> str:
    """The last line of a message, which has a line for each of its functions before."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from")]
    return lines[-1] if lines else str(error)


def _settings(choice: Choice) -> dict[str, Any]:
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if choice.cache_dir is not None:
        settings["CACHE_DIR"] = str(choice.cache_dir)
    if choice.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = choice.threads
    return settings


def _shapes(module: Any, told: ModelDescription, image: TensorInfo, most: int, size: Size, more: More) -> dict[str, Any]:
    """The shape of each input, with a free batch axis where several images are run at once."""
    batch = module.Dimension(1, most) if most > 1 else module.Dimension(1)
    shapes = {image.name: module.PartialShape([batch, 3, size[1], size[0]])}
    for each in told.inputs:
        if each.name in more:
            shapes[each.name] = module.PartialShape([batch, *more[each.name].shape[1:]])
    return shapes


def _run_of(request: openvino.InferRequest, name: str) -> Any:
    def run(blob: np.ndarray, more: More) -> Outputs:
        results = request.infer({name: blob, **more}, share_inputs=True)
        return list(results.values())

    return run


def _description(network: openvino.Model, model: Path) -> ModelDescription:
    """What a network says of itself. Metadata are those of the ONNX file, or of Ultralytics' `metadata.yaml` beside it."""
    told = dict(network.rt_info).get("framework", {}) if network.rt_info else {}
    metadata = {str(name): str(value.value) for name, value in dict(told).items()}
    beside = model.with_name("metadata.yaml")
    if model.suffix == ".xml" and beside.is_file():
        from ruamel.yaml import YAML

        metadata |= {str(name): str(value) for name, value in YAML(typ="safe").load(beside).items()}
    inputs = tuple(_tensor(each) for each in network.inputs)
    return ModelDescription(str(model), inputs, tuple(_tensor(each) for each in network.outputs), metadata)


def _tensor(port: Any) -> TensorInfo:
    shape = tuple(side.get_length() if side.is_static else str(side) for side in port.partial_shape)
    return TensorInfo(port.any_name, np.dtype(port.element_type.to_dtype()).name, shape)
