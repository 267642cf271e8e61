"""Oracles for operators that move values without computing: tensors, sequences, optionals, subgraphs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ._type_models import Call
from ._type_oracles import Array, Oracle, wide
from ._type_specs import as_array, dtype_of, number_of, to_numpy


def _moved(where: Callable[..., Any]) -> Oracle:
    """An operator that rearranges its first input: `where` does it to the positions of the elements.

    It is given the positions, then the other inputs as they are, and the attributes.
    """

    def oracle(call: Call) -> Array:
        data = call.inputs[0]
        positions = np.arange(data.size).reshape(data.shape)
        found = np.asarray(where(positions, *call.inputs[1:], **call.attributes))
        return np.asarray(data.reshape(-1)[found])

    return oracle


def _axes(axes: Any) -> tuple[int, ...]:
    return tuple(int(axis) for axis in axes)


def _squeeze(x: Any, given: Any = None, axes: Any = ()) -> Any:
    return np.squeeze(x, _axes(axes if given is None else given))


def _unsqueeze(x: Any, given: Any = None, axes: Any = ()) -> Any:
    return np.expand_dims(x, _axes(axes if given is None else given))


def _reshape(x: Any, given: Any = None, shape: Any = ()) -> Any:
    return x.reshape(_axes(shape if given is None else given))


def _slice(x: Any, first: Any = None, last: Any = None, *_: Any, starts: Any = (), ends: Any = ()) -> Any:
    start = int((starts if first is None else first)[0])
    return x[start : int((ends if last is None else last)[0])]


def _tile(call: Call) -> Array:
    if call.schema.since_version == 1:
        repeats = [1, 1]
        repeats[int(call.inputs[2])] = int(call.inputs[1])
    else:
        repeats = [int(n) for n in call.inputs[1]]
    return _moved(lambda x, *_: np.tile(x, repeats))(call)  # type: ignore[no-any-return]


def _blank(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return zeros, or empty texts."""
    return np.full(shape, "", object) if dtype.kind == "O" else np.zeros(shape, dtype)


def _pad(call: Call) -> Array:
    """Pads one column on either side, with the constant or zero: 0, "" or False."""
    data = call.inputs[0]
    constant = call.inputs[2] if len(call.inputs) > 2 else _blank((), data.dtype)
    made = np.empty((2, 5), data.dtype)
    made[:, 1:4] = data
    made[:, 0] = made[:, 4] = constant
    return made


def _depth_to_space(x: Any, blocksize: int) -> Any:
    return (
        x.reshape(blocksize, blocksize, -1, *x.shape[2:])
        .transpose(2, 3, 0, 4, 1)
        .reshape(1, -1, x.shape[2] * blocksize, x.shape[3] * blocksize)
    )


def _space_to_depth(x: Any, blocksize: int) -> Any:
    height, width = x.shape[2] // blocksize, x.shape[3] // blocksize
    blocks = x.reshape(1, -1, height, blocksize, width, blocksize)
    return blocks.transpose(0, 3, 5, 1, 2, 4).reshape(1, -1, height, width)


def _upsample(call: Call) -> Array:
    # With Resize-11 pixel i lies at (i + 0.5) / 2 - 0.5: -0.25, 0.25, 0.75, 1.25, nearest are 0, 0, 1, 1.
    return _moved(lambda x, *_, **__: x.repeat(2, 2).repeat(2, 3))(call)  # type: ignore[no-any-return]


def _scattered(call: Call) -> Array:
    """ScatterElements along axis 0, without a reduction."""
    made = call.inputs[0].copy()
    for column, row in enumerate(call.inputs[1][0].tolist()):
        made[row, column] = call.inputs[2][0, column]
    return np.asarray(made)


def _scatter_rows(call: Call) -> Array:
    made = call.inputs[0].copy()
    made[int(call.inputs[1][0, 0])] = call.inputs[2][0]
    return np.asarray(made)


def _tensor_scatter(call: Call) -> Array:
    made = call.inputs[0].copy()
    start = int(call.inputs[2][0])
    made[:, :, start : start + 2] = call.inputs[1]
    return np.asarray(made)


def _split(call: Call) -> tuple[Array, ...]:
    return call.inputs[0][:1].copy(), call.inputs[0][1:].copy()


def _one_hot(call: Call) -> Array:
    indices, depth, (off, on) = call.inputs
    made = np.empty((2, int(depth)), call.inputs[2].dtype)
    made[...] = off
    for row, column in enumerate(indices.astype(int).tolist()):
        made[row, column] = on
    return made


def _where(call: Call) -> Array:
    condition, x, y = (value.reshape(-1) for value in call.inputs)
    made = np.empty(6, x.dtype)
    for i, chosen in enumerate(condition.tolist()):
        made[i] = x[i] if chosen else y[i]
    return made.reshape(2, 3)


def _concat(call: Call) -> Array:
    first, second = call.inputs
    made = np.empty((len(first) + len(second), *first.shape[1:]), first.dtype)
    made[: len(first)], made[len(first) :] = first, second
    return made


def _non_zero(call: Call) -> Array:
    data = call.inputs[0]
    if data.dtype.kind == "O":
        return np.array([(i, j) for i, j in np.ndindex(data.shape) if data[i, j] != ""], np.int64).T
    found = [at for at in np.ndindex(data.shape) if wide(data)[at] != 0]
    return np.array(found, np.int64).reshape(-1, data.ndim).T


def _unique(call: Call) -> tuple[Any, ...]:
    flat = call.inputs[0].reshape(-1)
    items = (wide(flat) if flat.dtype.kind != "O" else flat).tolist()
    values = list(dict.fromkeys(items))
    if call.attributes.get("sorted", 1):
        values.sort()
    first = [items.index(value) for value in values]
    return (
        flat[first],
        np.array(first),
        np.array([values.index(item) for item in items]),
        np.array([items.count(value) for value in values]),
    )


def _center_crop_pad(call: Call) -> Array:
    """(2, 3) to (3, 2): the odd row of zeros is at the end, the odd column cut off at the end."""
    made = _blank((3, 2), call.inputs[0].dtype)
    made[:2] = call.inputs[0][:, :2]
    return made


def _eye(call: Call) -> Array:
    return as_array(np.eye(2, 3), dtype_of(call.output_types[0]))


def _attribute_tensor(call: Call) -> Array:
    shape = tuple(call.attributes["value"].dims) if call.schema.name == "Constant" else (2, 3)
    return as_array(np.ones(shape), dtype_of(call.output_types[0]))


def _triangle(call: Call) -> Array:
    made = _blank((2, 3), call.inputs[0].dtype)
    for row, column in np.ndindex(2, 3):
        if column >= row + int(call.inputs[1]):
            made[row, column] = call.inputs[0][row, column]
    return made


def _first(call: Call) -> Any:
    return call.inputs[0]


def _scan(call: Call) -> tuple[Any, Any]:
    return call.inputs[-2], call.inputs[-1]


def _sequence_insert(call: Call) -> list[Any]:
    sequence, value, position = call.inputs
    at = int(position)
    return [*sequence[:at], value, *sequence[at:]]


def _split_to_sequence(call: Call) -> list[Any]:
    return [call.inputs[0][:1].copy(), call.inputs[0][1:].copy()]


def _concat_sequence(call: Call) -> Array:
    first, second = call.inputs[0]
    made = np.empty((4, 3), first.dtype)
    made[:2], made[2:] = first, second
    return made


def _reverse(call: Call) -> Array:
    """Lengths (1, 2) along axis 0: the second column is turned over."""
    made = call.inputs[0].copy()
    made[:, 1] = call.inputs[0][::-1, 1]
    return np.asarray(made)


_BITS = {"int2": 2, "uint2": 2, "int4": 4, "uint4": 4, "float4_e2m1fn": 4}


def _bit_cast(call: Call) -> Any:
    """The bits stay; types narrower than a byte are in the lower ones of theirs."""
    source, target = call.inputs[0], to_numpy(number_of(call.output_types[0]))
    bits = _BITS.get(source.dtype.name)
    if bits is None:
        return np.frombuffer(source.tobytes(), target).reshape(source.shape)
    codes = source.view(np.uint8) & ((1 << bits) - 1)
    if target.name.startswith("int"):
        return np.where(codes >> (bits - 1), codes.astype(int) - (1 << bits), codes).astype(target)
    return codes.astype(target) if target.name.startswith("uint") else codes.view(target)


def _split_texts(call: Call) -> tuple[Any, Any]:
    parts = [text.split() for text in call.inputs[0].tolist()]
    longest = max(map(len, parts))
    padded = [part + [""] * (longest - len(part)) for part in parts]
    return np.array(padded, object), np.array([len(part) for part in parts], np.int64)


def _matches(call: Call) -> Any:
    """The pattern is 1."""
    return np.array([text == "1" for text in call.inputs[0].reshape(-1)]).reshape(2, 3)


def _term_counts(call: Call) -> Any:
    """The terms are 0 and 1, in this order."""
    items = [str(x) for x in call.inputs[0].tolist()]
    return np.array([items.count("0"), items.count("1")], np.float64)


def _array_features(call: Call) -> Array:
    return np.asarray(call.inputs[0].reshape(-1)[[0, 1, 3, 4]]).reshape(2, 2)


def _dropout(call: Call) -> Any:
    kept = call.inputs[0]
    if len(call.output_types) == 1:
        return kept
    return kept, as_array(np.ones(kept.shape), dtype_of(call.output_types[1]))


_ALL: dict[str, Oracle] = {
    "ArrayFeatureExtractor": _array_features,
    "BitCast": _bit_cast,
    "CenterCropPad": _center_crop_pad,
    "Compress": lambda call: call.inputs[0][:1],
    "Concat": _concat,
    "ConcatFromSequence": _concat_sequence,
    "Constant": _attribute_tensor,
    "ConstantOfShape": _attribute_tensor,
    "DepthToSpace": _moved(_depth_to_space),
    "Dropout": _dropout,
    "Expand": _moved(lambda x, shape: np.broadcast_to(x, _axes(shape))),
    "EyeLike": _eye,
    "Flatten": _moved(lambda x: x.reshape(2, 3)),
    "Gather": _moved(lambda x, indices: x[[0, 1]]),
    "GatherElements": _moved(lambda x, indices: x[[[0, 1, 0]], [[0, 1, 2]]]),
    "GatherND": _moved(lambda x, indices: x[[0], [1]]),
    "Identity": _first,
    "If": lambda call: call.values["x"],
    "Loop": lambda call: call.inputs[2],
    "Multinomial": lambda call: np.ones((1, 2), np.int64),
    "NonZero": _non_zero,
    "OneHot": _one_hot,
    "Optional": _first,
    "OptionalGetElement": _first,
    "OptionalHasElement": lambda call: np.asarray(True),
    "Pad": _pad,
    "RegexFullMatch": _matches,
    "Reshape": _moved(_reshape),
    "Resize": _upsample,
    "ReverseSequence": _reverse,
    "Scan": _scan,
    "Scatter": _scattered,
    "ScatterElements": _scattered,
    "ScatterND": _scatter_rows,
    "SequenceAt": lambda call: call.inputs[0][0],
    "SequenceConstruct": lambda call: list(call.inputs),
    "SequenceEmpty": lambda call: [],
    "SequenceErase": lambda call: call.inputs[0][1:],
    "SequenceInsert": _sequence_insert,
    "SequenceLength": lambda call: np.asarray(len(call.inputs[0]), np.int64),
    "SequenceMap": _first,
    "Shape": lambda call: np.asarray(call.inputs[0].shape, np.int64),
    "Size": lambda call: np.asarray(math.prod(call.inputs[0].shape), np.int64),
    "Slice": _moved(_slice),
    "SpaceToDepth": _moved(_space_to_depth),
    "Split": _split,
    "SplitToSequence": _split_to_sequence,
    "Squeeze": _moved(_squeeze),
    "StringSplit": _split_texts,
    "TensorScatter": _tensor_scatter,
    "TfIdfVectorizer": _term_counts,
    "Tile": _tile,
    "Transpose": _moved(np.transpose),
    "Trilu": _triangle,
    "Unique": _unique,
    "Unsqueeze": _moved(_unsqueeze),
    "Upsample": _upsample,
    "Where": _where,
}

_ML = ("ArrayFeatureExtractor",)

ORACLES: dict[tuple[str, str], Oracle] = {
    ("ai.onnx.ml" if name in _ML else "", name): oracle for name, oracle in _ALL.items()
}
