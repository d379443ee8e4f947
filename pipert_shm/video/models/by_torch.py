"""Runs networks with PyTorch: modules, TorchScript files, and archives of `torch.export`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pipert_shm.errors import shown
from pipert_shm.video.models.description import ModelDescription, TensorInfo
from pipert_shm.video.models.runtime import USUAL_SIZE, More, Outputs, Runtime, Size, one_by_one, trial_image
from pipert_shm.video.models.torchvision_head import OUTPUTS, packed

ARCHIVE = ".pt2"  # of torch.export


def by_torch(
    model: Any, size: Size | None, device: str | None, *, half: bool, threads: int | None, more: Callable[[int, Size], More]
) -> Runtime:
    """Loads a network onto its device, and runs it once.

    :param model: a module, a function that makes one, or a text: a file, or `package.module:function`.
    :param more: makes what the network takes besides the images.
    :raises ValueError: when it can't be loaded or run, or there is no such device.
    :raises ImportError: when PyTorch is not installed.
    """
    torch = _imported()
    if threads is not None:
        torch.set_num_threads(threads)
    place = _device(torch, device)
    title = title_of(model)
    module, shape = _loaded(torch, model, place)
    if half and hasattr(module, "half"):
        module.half()
    dtype = torch.float16 if half else torch.float32
    size = _size(title, size, shape)
    told: list[str] = []  # the names of the outputs, which only a run tells

    def run(blob: np.ndarray, others: More) -> Outputs:
        with torch.inference_mode():
            given = [torch.from_numpy(np.ascontiguousarray(each)).to(place) for each in (blob, *others.values())]
            names, outputs = _arrays(torch, title, module(given[0].to(dtype), *given[1:]))
        told[:] = names
        return outputs

    try:
        trial = run(trial_image(size), more(1, size))
    except ValueError:
        raise
    except Exception as error:  # whatever the module raises
        raise ValueError(f"PyTorch can't run {title} on {size[0]}x{size[1]} pixels, on {place}: {error}") from error
    image = TensorInfo("image", "float16" if half else "float32", shape or ("batch", 3, "height", "width"))
    outputs = tuple(TensorInfo(name, each.dtype.name, each.shape) for name, each in zip(told, trial, strict=True))
    one = bool(shape) and shape[0] == 1
    description = ModelDescription(title, (image,), outputs, {})
    return Runtime(one_by_one(run) if one else run, size, "torch", (str(place),), trial, description)


def _imported() -> ModuleType:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ImportError(f"PyTorch is not installed ({error}): pip install torch, see https://pytorch.org") from error
    module: ModuleType = torch
    return module


def title_of(model: Any) -> str:
    """What the log and errors call it."""
    return str(model) if isinstance(model, str | Path) else getattr(model, "__name__", type(model).__name__)


def _device(torch: Any, wanted: str | None) -> Any:
    """:raises ValueError: when PyTorch has no such device."""
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.zeros(1, device=device)
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise ValueError(f"this PyTorch has no device {wanted!r}: {str(error).splitlines()[0]}") from error
    return device


# ---- where a module comes from -------------------------------------------------------------------


def _loaded(torch: Any, model: Any, device: Any) -> tuple[Any, tuple[int | str, ...]]:
    """Returns what is called with the images, and the shape of these if it is known, else ()."""
    if isinstance(model, str | Path):
        if not _is_import_path(model):
            return _from_file(torch, Path(model), device)
        model = _imported_function(str(model))
    if not isinstance(model, torch.nn.Module):
        model = _made(torch, model)
    return model.to(device).eval(), ()


def _is_import_path(model: str | Path) -> bool:
    return isinstance(model, str) and ":" in model and not Path(model).exists()


def _imported_function(path: str) -> Any:
    package, _, name = path.partition(":")
    try:
        found: Any = import_module(package)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"model {path!r} is neither a file nor a function that can be imported: {error}") from error
    return found


def _made(torch: Any, make: Callable[[], Any]) -> Any:
    module = make()
    if not isinstance(module, torch.nn.Module):
        raise ValueError(f"{title_of(make)} returned {shown(module)}; it must return a torch.nn.Module")
    return module


def _from_file(torch: Any, path: Path, device: Any) -> tuple[Any, tuple[int | str, ...]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no model {str(path)!r}; check the path, or give a function: 'package.module:function'"
        )
    kind = "an archive of torch.export" if path.suffix == ARCHIVE else "TorchScript"
    try:
        if path.suffix == ARCHIVE:
            program = torch.export.load(path)
            return program.module().to(device), _shape_of(program)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch deprecates its format, and files go on being there
            return torch.jit.load(str(path), map_location=device).eval(), ()
    except Exception as error:  # of all kinds, for a file that is something else
        raise ValueError(
            f"PyTorch can't read the model {str(path)!r} as {kind}: {str(error).splitlines()[0]}; a file of weights alone "
            f"needs the function that makes the network: 'package.module:function'"
        ) from error


def _shape_of(program: Any) -> tuple[int | str, ...]:
    """The shape of an exported network's first input."""
    first = program.graph_signature.user_inputs[0]
    (node,) = (node for node in program.graph.nodes if node.name == first)
    return tuple(side if isinstance(side, int) else str(side) for side in node.meta["val"].shape)


def _size(title: str, wanted: Size | None, shape: Sequence[int | str]) -> Size:
    """:raises ValueError: when an exported network takes another size, or other batches."""
    if not shape:
        return wanted or USUAL_SIZE
    if len(shape) != 4 or shape[1] != 3 or (isinstance(shape[0], int) and shape[0] != 1):
        raise ValueError(
            f"the model {title!r} takes {list(shape)}; it must take (batch, 3, height, width), with a free batch axis or of 1"
        )
    given = wanted or USUAL_SIZE
    height, width = (
        side if isinstance(side, int) else mine for side, mine in zip(shape[2:], (given[1], given[0]), strict=True)
    )
    if wanted is not None and (width, height) != tuple(wanted):
        raise ValueError(
            f"the model {title!r} takes {width}x{height} pixels, not {wanted[0]}x{wanted[1]}: give size={(width, height)}"
        )
    return width, height


# ---- what it returns -----------------------------------------------------------------------------


def _arrays(torch: Any, title: str, result: Any) -> tuple[list[str], list[np.ndarray]]:
    """The tensors of a module's result, with their names: a tensor; of a sequence or mapping those that it holds itself.

    :raises ValueError: when there is none.
    """
    if isinstance(result, list | tuple) and result and all(isinstance(each, Mapping) for each in result):
        return list(OUTPUTS), packed([{name: _array(torch, value) for name, value in each.items()} for each in result])
    if isinstance(result, Mapping):
        parts = [(str(name), value) for name, value in result.items()]
    elif isinstance(result, list | tuple):
        parts = [(f"output{number}", value) for number, value in enumerate(result)]
    else:
        parts = [("output0", result)]
    tensors = [(name, value) for name, value in parts if isinstance(value, torch.Tensor)]
    if not tensors:
        raise ValueError(
            f"{title} returned {shown(result)}: a head reads a tensor, tensors in a list, tuple or dict, or torchvision's "
            f"list of dicts"
        )
    return [name for name, _ in tensors], [_array(torch, value) for _, value in tensors]


def _array(torch: Any, value: Any) -> np.ndarray:
    tensor = value.detach().to("cpu")
    array: np.ndarray = (tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor).numpy()
    return array
