"""Input values from what a user writes on the command line."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import dtypes
from ..dtypes import LOW_PRECISION, Array, ElementType
from ..errors import InputError, MissingDependencyError, OnnxRefError
from ..graph import OptionalType, SequenceType, TensorType, Value, ValueType
from ..model import read_value_file

_IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


def read_sources(
    sources: Sequence[str],
    declared: Sequence[Value],
    required: Sequence[Value],
    dims: Mapping[str, int],
    seed: int,
) -> dict[str, Any]:
    """Return values by input name.

    Args:
        sources: `NAME=SOURCE`, or `SOURCE` alone for a model with one input, or for a `.npz` file that
            has an array for every input it is to give.
        declared: the model's inputs.
        required: those of them that have no default.
        dims: sizes of named dimensions, which the inputs must have, for random inputs.
        seed: seed of random inputs.

    Raises:
        InputError: a name is unknown, or a source cannot be read as the declared type.
    """
    by_name = {value.name: value for value in declared}
    _check_dims(dims, declared)
    rng = np.random.default_rng(seed)
    feeds: dict[str, Any] = {}
    for source in sources:
        name, _, text = source.partition("=")
        if name not in by_name:
            if Path(source).suffix == ".npz" and Path(source).exists():
                arrays = _read_npz(Path(source))
                feeds.update({k: _restore(v, by_name[k]) for k, v in arrays.items() if k in by_name})
                continue
            if len(required) != 1 or (text and not name.startswith(("[", "{"))):
                known = ", ".join(by_name) or "none"
                raise InputError(f"--input {source!r} names no input of the model (it has: {known})")
            name, text = required[0].name, source
        feeds[name] = _read_source(text, by_name[name], dims, rng)
    return feeds


def parse_dims(pairs: Sequence[str]) -> dict[str, int]:
    """Return `NAME=SIZE` pairs as a dictionary."""
    found: dict[str, int] = {}
    for pair in pairs:
        name, _, size = pair.partition("=")
        if not size.isdecimal():
            raise InputError(f"--dim must be NAME=SIZE with a whole number (got {pair!r})")
        found[name] = int(size)
    return found


def _check_dims(dims: Mapping[str, int], declared: Sequence[Value]) -> None:
    tensors = [kind for value in declared if isinstance(kind := _one_tensor(value.type), TensorType)]
    named = dict.fromkeys(d for kind in tensors for d in kind.shape or () if isinstance(d, str))
    for name in dims:
        if name not in named:
            known = ", ".join(named) or "none"
            raise InputError(f"--dim {name!r} is no dimension of the model's inputs (they have: {known})")


def _one_tensor(kind: ValueType | None) -> ValueType | None:
    """Return the type inside an optional and a sequence."""
    if isinstance(kind, OptionalType):
        kind = kind.element
    return kind.element if isinstance(kind, SequenceType) else kind


def _read_source(text: str, value: Value, dims: Mapping[str, int], rng: np.random.Generator) -> Any:
    path = Path(text)
    where = f"input {value.name!r} from {text!r}"
    try:
        if text == "random":
            return _random(value, dims, rng)
        match path.suffix.lower():
            case ".npy":
                return _restore(np.load(path, allow_pickle=False), value)
            case ".npz":
                return _restore(_pick(_read_npz(path), value.name, where), value)
            case ".pb":
                return read_value_file(path, value.type)
            case ".json":
                return _from_json(path.read_text(encoding="utf-8"), where)
            case suffix if suffix in _IMAGES:
                return _read_image(path, value)
            case _:
                return _from_json(text, where)
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        if isinstance(error, OnnxRefError):
            raise
        raise InputError(f"{where} cannot be read: {error}") from error


def _from_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where} is neither JSON nor a .npy, .npz, .pb, .json or image file, nor 'random' ({error})"
        ) from error


def _read_npz(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{str(path)!r} is not an .npz file of arrays: {error}") from error


def _restore(array: Array, value: Value) -> Array:
    """Give the bytes of a bfloat16 array and the like their type back, which NumPy's format loses."""
    if array.dtype.kind != "V" or not isinstance(value.type, TensorType) or not value.type.element:
        return array
    dtype = dtypes.to_numpy(value.type.element)
    return array.view(dtype) if dtype.kind == "V" and dtype.itemsize == array.itemsize else array


def _pick(arrays: Mapping[str, Array], name: str, where: str) -> Array:
    if name in arrays:
        return arrays[name]
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    raise InputError(f"{where}: the file has no array {name!r} (it has: {', '.join(arrays)})")


def _random(value: Value, dims: Mapping[str, int], rng: np.random.Generator) -> Any:
    """Draw a tensor of the declared type; unknown dimensions are 1 unless `dims` names them."""
    kind = value.type
    if isinstance(kind, OptionalType):
        kind = kind.element
    if isinstance(kind, SequenceType) and isinstance(kind.element, TensorType):
        return [_random_tensor(value.name, kind.element, dims, rng)]
    if not isinstance(kind, TensorType) or not kind.element:
        raise InputError(f"input {value.name!r} has no tensor type to draw random values of")
    return _random_tensor(value.name, kind, dims, rng)


def _random_tensor(name: str, kind: TensorType, dims: Mapping[str, int], rng: np.random.Generator) -> Array:
    shape = tuple(d if isinstance(d, int) else dims.get(d or "", 1) for d in kind.shape or ())
    dtype = dtypes.to_numpy(kind.element)
    if kind.element == ElementType.STRING:
        words = [f"{name}-{i}" for i in range(math.prod(shape))]
        return np.array(words, dtype=np.object_).reshape(shape)
    if dtype.kind == "f" or dtype in LOW_PRECISION:
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind == "c":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    # Small integers, so that indices and lengths have a chance to be valid.
    return rng.integers(0, 2, size=shape).astype(dtype)


def _read_image(path: Path, value: Value) -> Array:
    """Return an image in the input's layout, size and type; floats are scaled to [0, 1].

    The channel dimension is the one that is 1 or 3: (N, C, H, W), (N, H, W, C), (C, H, W), (H, W, C);
    a rank of 2 takes (H, W) in grey.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingDependencyError("images need Pillow: pip install 'onnxref[image]'") from error
    kind = value.type
    if not isinstance(kind, TensorType) or kind.shape is None or not 2 <= len(kind.shape) <= 4:
        raise InputError(f"input {value.name!r} must have rank 2 to 4 to take an image")
    inner = kind.shape[-3:]
    channels_first = len(inner) == 3 and (inner[0] in (1, 3) or inner[2] not in (1, 3))
    rows, columns = (inner[-2], inner[-1]) if channels_first or len(inner) == 2 else inner[:2]
    channels = 1 if len(inner) == 2 else inner[0] if channels_first else inner[2]
    with Image.open(path) as opened:
        image = opened.convert("L" if channels == 1 else "RGB")
    height = rows if isinstance(rows, int) else image.height
    width = columns if isinstance(columns, int) else image.width
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    if len(inner) == 3:
        pixels = np.atleast_3d(pixels)
        pixels = pixels.transpose(2, 0, 1) if channels_first else pixels
    pixels = pixels.reshape((1,) * (len(kind.shape) - pixels.ndim) + pixels.shape)
    dtype = dtypes.to_numpy(kind.element)
    if dtype.kind == "f" or dtype in LOW_PRECISION:
        pixels = pixels.astype(np.float32) / 255
    return pixels.astype(dtype)
