"""The caller's inputs, matched with the graph's inputs and checked before anything runs."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import dtypes
from ..dtypes import LOW_PRECISION, Array, ElementType, element_name, tensor_type_string
from ..errors import InputError
from ..gpu import Device, DeviceTensor
from ..graph import (
    Dim,
    Graph,
    MapType,
    OptionalType,
    SequenceType,
    SparseTensor,
    SparseTensorType,
    TensorType,
    ValueType,
)


def bind_inputs(graph: Graph, feeds: Any, device: Device | None = None) -> list[Any]:
    """Return one checked value for each graph input, in graph order.

    Args:
        graph: the model's main graph. An input with an initializer may be left out.
        feeds: a mapping from name to value, a sequence in graph order (without the inputs that have an
            initializer, or with all of them), one array for a graph with one input, or None for no input.
        device: where the model runs, if that is no processor: arrays that lie there stay there.

    Raises:
        InputError: an input is missing, extra, or not of the declared type, rank or fixed dimension.
    """
    given = _by_name(graph, feeds)
    if device is not None:
        adopted = ((name, value, device.adopt(value)) for name, value in given.items())
        given = {name: value if tensor is None else tensor for name, value, tensor in adopted}
    bound: list[Any] = []
    for value in graph.inputs:
        if value.name in given:
            bound.append(_convert(given[value.name], value.type, f"input {value.name!r}"))
        elif value.name in graph.initializers:
            bound.append(graph.initializers[value.name])
        elif isinstance(value.type, OptionalType):
            bound.append(None)
        else:
            raise InputError(f"input {value.name!r} is missing; {_expected(graph)}")
    return bound


def _by_name(graph: Graph, feeds: Any) -> Mapping[str, Any]:
    if feeds is None:
        return {}
    if isinstance(feeds, Mapping):
        known = {value.name for value in graph.inputs}
        for name in feeds:
            if name not in known:
                raise InputError(f"the model has no input {name!r}; {_expected(graph)}")
        return feeds
    if not isinstance(feeds, (list, tuple)):
        feeds = [feeds]
    required = graph.required_inputs
    wanted = required if len(feeds) <= len(required) else graph.inputs
    if len(feeds) > len(wanted):
        raise InputError(f"{len(feeds)} inputs were given; {_expected(graph)}")
    return {value.name: item for value, item in zip(wanted, feeds, strict=False)}


def _expected(graph: Graph) -> str:
    names = ", ".join(repr(value.name) for value in graph.required_inputs)
    return f"the model takes {names}" if names else "the model takes no inputs"


def _convert(value: Any, expected: ValueType | None, where: str) -> Any:
    match expected:
        case TensorType():
            return _tensor(value, expected, where)
        case SequenceType():
            if not isinstance(value, (list, tuple)):
                raise InputError(f"{where} must be a sequence (got {type(value).__name__})")
            return [_convert(item, expected.element, f"{where}[{i}]") for i, item in enumerate(value)]
        case OptionalType():
            return None if value is None else _convert(value, expected.element, where)
        case MapType():
            if not isinstance(value, Mapping):
                raise InputError(f"{where} must be a mapping (got {type(value).__name__})")
            return _map(value, expected, where)
        case SparseTensorType():
            return _sparse(value, expected, where)
        case None:
            if value is None or isinstance(value, (list, dict, DeviceTensor)):
                return value
            return _as_array(value, 0, where)


def _tensor(value: Any, expected: TensorType, where: str) -> Array | DeviceTensor:
    array = value if isinstance(value, DeviceTensor) else _as_array(value, expected.element, where)
    if expected.element and dtypes.from_numpy(array.dtype) != expected.element:
        raise InputError(
            f"{where} must be tensor({element_name(expected.element)}) "
            f"(got {tensor_type_string(array.dtype)}, NumPy {array.dtype})"
        )
    if expected.shape is not None:
        _check_shape(array.shape, expected, where)
    return array


def _check_shape(shape: tuple[int, ...], expected: TensorType, where: str) -> None:
    wanted = expected.shape or ()
    if len(shape) != len(wanted):
        shown = _shape_shown(wanted)
        raise InputError(f"{where} must have rank {len(wanted)}, shape {shown} (got shape {list(shape)})")
    for axis, (actual, dim) in enumerate(zip(shape, wanted, strict=True)):
        if isinstance(dim, int) and actual != dim:
            shown = _shape_shown(wanted)
            raise InputError(f"{where}: dimension {axis} must be {dim}, shape {shown} (got {list(shape)})")


def _shape_shown(shape: tuple[Dim, ...]) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"


def _as_array(value: Any, element: int, where: str) -> Array:
    """Return `value` as an array of a type that ONNX has; bare Python numbers take the declared type."""
    try:
        if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "__array__"):
            array = np.asarray(value)
        elif hasattr(value, "__dlpack__"):
            array = np.from_dlpack(value)
        else:
            return _from_python(value, element, where)
    except InputError:
        raise
    except Exception as error:  # other libraries' arrays refuse in ways of their own
        raise InputError(f"{where} cannot be made an array: {type(error).__name__}: {error}") from error
    if array.dtype.kind in "UTSO":
        return _strings(array, where)
    try:
        dtypes.from_numpy(array.dtype)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _from_python(value: Any, element: int, where: str) -> Array:
    """Return Python numbers or strings in the declared type; floats are rounded, integers must fit."""
    if element == ElementType.STRING:
        return _strings(np.asarray(value, dtype=np.object_), where)
    plain = np.asarray(value)
    if plain.dtype.kind in "US" or not element:
        return _as_array(plain, element, where)
    dtype = dtypes.to_numpy(element)
    with np.errstate(over="ignore"):
        array = np.asarray(value, dtype=dtype)
    if plain.dtype.kind == "O":
        fits = False  # None, or an integer of more than 64 bits
    elif dtype.kind in "fc" or dtype in LOW_PRECISION:
        fits = np.array_equal(np.isfinite(array), np.isfinite(plain))
    else:
        fits = np.array_equal(array.astype(plain.dtype), plain)
    if not fits:
        raise InputError(
            f"{where}: {reprlib.repr(value)} cannot be represented in {tensor_type_string(dtype)}"
        )
    return array


def _strings(array: Array, where: str) -> Array:
    items = array.reshape(-1).tolist()
    if array.dtype == np.object_ and set(map(type, items)) <= {str}:
        return array
    found = np.empty(array.shape, dtype=np.object_)
    flat = found.reshape(-1)
    for i, item in enumerate(items):
        text = item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else item
        if not isinstance(text, str):
            raise InputError(f"{where} must hold strings only (got a {type(item).__name__})")
        flat[i] = text
    return found


def _map(value: Mapping[Any, Any], expected: MapType, where: str) -> dict[Any, Any]:
    key_type: type = str if expected.key == ElementType.STRING else int
    for key in value:
        if not isinstance(key, (key_type, np.integer) if key_type is int else key_type):
            raise InputError(f"{where}: keys must be {key_type.__name__} (got {key!r})")
    value = {key_type(key): item for key, item in value.items()}
    if isinstance(expected.value, TensorType):
        scalar = TensorType(expected.value.element, ())
        return {key: _convert(item, scalar, f"{where}[{key!r}]")[()] for key, item in value.items()}
    return {key: _convert(item, expected.value, f"{where}[{key!r}]") for key, item in value.items()}


def _sparse(value: Any, expected: SparseTensorType, where: str) -> SparseTensor:
    if not isinstance(value, SparseTensor):
        raise InputError(f"{where} must be an onnxref.SparseTensor (got {type(value).__name__})")
    dense_type = TensorType(expected.element, expected.shape)
    _tensor(value.values, TensorType(expected.element), where)
    if expected.shape is not None:
        _check_shape(value.shape, dense_type, where)
    return value
