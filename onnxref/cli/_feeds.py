"""Inputs of the commands that need some, whatever their values: what is not given is drawn at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import InputError
from ..graph import Graph, TensorType, Value
from ._sources import parse_dims, read_sources


def make_feeds(
    graph: Graph, sources: Sequence[str], dims: Sequence[str], seed: int, batch: int | None = None
) -> dict[str, Any]:
    """Return a value for every input that a model needs.

    Args:
        sources: `NAME=SOURCE` as for `onnxref run`; inputs that none of them gives are random.
        batch: size of the batch, which is the first dimension of the first input that has a free one.

    Raises:
        InputError: a source is wrong, or no dimension is free to be the batch.
    """
    sizes = parse_dims(dims)
    declared, required = list(graph.inputs), list(graph.required_inputs)
    name: str | None = None
    if batch is not None:
        name = _batch_name(required)
        declared, required = ([_sized(v, name, batch) for v in values] for values in (declared, required))
    feeds = read_sources(sources, declared, required, sizes, seed) if sources else {}
    missing = [f"{value.name}=random" for value in required if value.name not in feeds]
    feeds |= read_sources(missing, declared, required, sizes, seed)
    if batch is not None:
        feeds = {key: _repeated(feeds[key], value, batch) for key, value in _pairs(feeds, declared)}
    return feeds


def _batch_name(values: Sequence[Value]) -> str | None:
    """Return the name of the batch dimension; None where it has none."""
    for value in values:
        if (
            isinstance(value.type, TensorType)
            and value.type.shape
            and not isinstance(value.type.shape[0], int)
        ):
            return value.type.shape[0]
    raise InputError("--batch needs an input whose first dimension is free; this model's are all fixed")


def _sized(value: Value, name: str | None, batch: int) -> Value:
    """Return a declaration with the batch's size in place of its name."""
    if not isinstance(value.type, TensorType) or not value.type.shape:
        return value
    shape = tuple(
        batch if (name and dim == name) or (i == 0 and not isinstance(dim, int) and not name) else dim
        for i, dim in enumerate(value.type.shape)
    )
    return replace(value, type=replace(value.type, shape=shape))


def _pairs(feeds: Mapping[str, Any], declared: Sequence[Value]) -> list[tuple[str, Value]]:
    by_name = {value.name: value for value in declared}
    return [(name, by_name[name]) for name in feeds]


def _repeated(array: Any, value: Value, batch: int) -> Any:
    """Return a given array of one row as often as the batch has rows."""
    if not isinstance(array, np.ndarray) or not isinstance(value.type, TensorType) or not array.ndim:
        return array
    shape = value.type.shape or ()
    is_single = len(shape) == array.ndim and shape[0] == batch and array.shape[0] == 1
    return np.repeat(array, batch, axis=0) if is_single else array
