"""Runs a lowering that moves elements in the emulator and wants the reference's bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from tests.lowered import reference

from .lowered import run_on_device

SIZES = {1: np.uint8, 2: np.float16, 4: np.float32, 8: np.int64, 16: np.complex128}
"""A type of each element size."""


def tensor(shape: Sequence[int], dtype: Any = np.float32, seed: int = 0) -> Array:
    """Return a tensor of any bits, NaN and infinity among them."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape))
    raw = np.random.default_rng(seed).integers(0, 256, count * dtype.itemsize, dtype=np.uint8)
    if dtype == np.bool_:
        raw &= 1
    return raw.view(dtype).reshape(tuple(shape))


def check_exact(
    op_type: str,
    inputs: Sequence[Any],
    attributes: Mapping[str, Any] | None = None,
    opset: int = 24,
    *,
    constants: Sequence[int] = (),
    outputs: int = 1,
    wanted: Sequence[int] | None = None,
    channels_last: bool = False,
    **run: Any,
) -> list[Array]:
    """Run the node here and in the emulator; return the outputs, which are the same bits.

    Args:
        outputs: number of outputs that the node has.
        wanted: the outputs that are wanted, all if None.
        channels_last: whether the first input and all outputs lie so.
    """
    expected = reference_of(op_type, inputs, attributes or {}, opset, outputs)
    kept = range(outputs) if wanted is None else wanted
    places = [(y.shape, y.dtype) if i in kept else None for i, y in enumerate(expected)]
    if channels_last:
        run = {"channels_last": (0,), "outputs_last": tuple(range(outputs)), **run}
    found = run_on_device(op_type, inputs, places, attributes, opset=opset, constants=constants, **run)
    for i in kept:
        y = found[i]
        assert y is not None
        assert np.ascontiguousarray(y).tobytes() == np.ascontiguousarray(expected[i]).tobytes(), (
            f"{op_type} {attributes} of {[None if x is None else x.shape for x in inputs]}"
        )
    return [expected[i] for i in kept]


def reference_of(
    op_type: str, inputs: Sequence[Any], attributes: Mapping[str, Any], opset: int, outputs: int
) -> tuple[Array, ...]:
    """Return what the NumPy kernel gives where the node has so many outputs."""
    if outputs == 1:
        return reference(op_type, inputs, attributes, opset)
    from onnxref import registry

    operator = registry.find("", op_type, opset)
    arguments = {"prepared": operator.prepare(**attributes)} if operator.prepare else dict(attributes)
    if operator.takes_context:
        arguments["ctx"] = registry.Context(wanted=(True,) * outputs, opset=opset)
    return tuple(map(np.asarray, operator.kernel(*inputs, **arguments)))
