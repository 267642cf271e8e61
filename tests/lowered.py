"""Runs a single lowering beside the reference kernel, for the tests of accelerated kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxref import registry
from onnxref.dtypes import Array
from onnxref.lowering import (
    Address,
    Blocked,
    Fault,
    Op,
    Operand,
    Packed,
    Scratch,
    Site,
    aligned,
    aligned_empty,
    find_lowering,
    float_bits,
)
from onnxref.native import ROW, run_serially, team_of
from onnxref.schema import find as find_schema


class RefusedError(Exception):
    """The native code reported values that it must refuse."""


_GUARD = 64  # bytes before and behind every output, to see writes outside of it


def reference(
    op_type: str, inputs: Sequence[Any], attributes: Mapping[str, Any], opset: int, domain: str = ""
) -> tuple[Any, ...]:
    """Return what the NumPy kernel gives."""
    operator = registry.find(domain, op_type, opset)
    arguments = {"prepared": operator.prepare(**attributes)} if operator.prepare else dict(attributes)
    if operator.takes_context:
        arguments["ctx"] = registry.Context(wanted=(True,) * 8, opset=opset)
    with np.errstate(all="ignore"):
        result = operator.kernel(*inputs, **arguments)
    return tuple(map(np.asarray, result)) if isinstance(result, tuple) else (np.asarray(result),)


def run_lowered(
    op_type: str,
    inputs: Sequence[Array | None],
    outputs: Sequence[tuple[tuple[int, ...], Any] | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    opset: int = 24,
    domain: str = "",
    constants: Sequence[int] = (),
    layouts: Mapping[int, Blocked] | None = None,
    output_layouts: Mapping[int, Blocked] | None = None,
    precision: str = "default",
    parallel: bool = False,
) -> list[Array | None]:
    """Run the lowering of a node and return its outputs as plain arrays.

    Args:
        outputs: (shape, dtype) of each output, None for one that nothing wants.
        constants: indices of inputs whose value the lowering may see.
        layouts: indices of inputs, of outputs, that are given and taken in blocks.
    """
    operands: list[Operand | None] = []
    memory: dict[int, int] = {}
    kept: list[Any] = []
    for index, array in enumerate(inputs):
        if array is None:
            operands.append(None)
            continue
        layout = (layouts or {}).get(index)
        if array.dtype.hasobject:
            held = array.copy()  # with references to its strings
        else:
            held = aligned(array) if layout is None else to_blocked(array, layout)
        constant = held if index in constants else None
        operand = Operand(array.shape, array.dtype, f"input{index}", constant, layout)
        kept.append(held)
        memory[id(operand)] = held.ctypes.data
        operands.append(operand)
    made: list[Operand | None] = []
    results: list[Array | None] = []
    for index, wanted in enumerate(outputs):
        if wanted is None:
            made.append(None)
            results.append(None)
            continue
        layout = (output_layouts or {}).get(index)
        operand = Operand(tuple(wanted[0]), np.dtype(wanted[1]), f"output{index}", None, layout)
        raw = aligned_empty((operand.buffer_bytes + 2 * _GUARD,), np.dtype(np.uint8))
        raw[...] = 0xA5
        if layout is not None:
            raw[_GUARD:-_GUARD] = 0  # the planner zeroes borders
        memory[id(operand)] = raw.ctypes.data + _GUARD
        kept.append(raw)
        made.append(operand)
        results.append(raw)
    schema = find_schema(domain, op_type, opset)
    lowering = find_lowering("numba", domain, op_type, schema.since_version if schema else 1)
    assert lowering is not None, f"{domain}:{op_type} is not lowered"
    op = Op(op_type, operands, made, dict(attributes or {}), domain, opset)
    site = Site(op, precision=precision)
    lowering.emit(site, *operands, **(attributes or {}))
    _execute(site, memory, kept, parallel)
    for output, source, offset in site.aliases:
        assert offset == 0, "programs of the processor have no views of ranges"
        at = next(i for i, operand in enumerate(made) if operand is output)
        held = next(k for k in kept if isinstance(k, np.ndarray) and k.ctypes.data == memory[id(source)])
        results[at][_GUARD:-_GUARD] = held.reshape(-1).view(np.uint8)
    return [_taken(raw, operand) for raw, operand in zip(results, made, strict=True)]


def _taken(raw: Array | None, operand: Operand | None) -> Array | None:
    if raw is None or operand is None:
        return None
    assert (raw[:_GUARD] == 0xA5).all(), "wrote before its output"
    assert (raw[-_GUARD:] == 0xA5).all(), "wrote behind its output"
    inner = raw[_GUARD : len(raw) - _GUARD].view(operand.dtype)
    if operand.layout is None:
        return inner.reshape(operand.shape).copy()
    return from_blocked(inner.reshape(operand.layout.extents(operand.shape)), operand.shape, operand.layout)


def _execute(site: Site, memory: dict[int, int], kept: list[Any], parallel: bool) -> None:
    team = team_of()
    for scratch in site.scratches:
        size = scratch.nbytes * (team.threads if scratch.per_thread else 1)
        held = aligned_empty((size + 2 * _GUARD,), np.dtype(np.uint8))
        held[...] = 0xA5
        kept.append(held)
        memory[id(scratch)] = held.ctypes.data + _GUARD

    def resolve(argument: Any) -> int:
        if isinstance(argument, Address):
            return resolve(argument.owner) + argument.offset
        if isinstance(argument, Packed):
            kept.append(argument.array)
            return int(argument.array.ctypes.data)
        if isinstance(argument, Fault):
            return int(fault.ctypes.data)
        if isinstance(argument, (Operand, Scratch)):
            return memory[id(argument)]
        return float_bits(argument) if isinstance(argument, float) else int(argument)

    fault = np.zeros(1, np.int64)
    rows = np.zeros((max(1, len(site.calls)), ROW), np.int64)
    for row, call in zip(rows, site.calls, strict=False):
        packed = np.array([resolve(a) for a in call.arguments] or [0], np.int64)
        kept.append(packed)
        row[:] = (call.function.address, packed.ctypes.data, call.units, 3, 3 * team.threads)
    calls = len(site.calls)
    if parallel:
        counters = aligned_empty((team.counter_bytes(calls) + 64,), np.dtype(np.uint8))
        team.run(rows.ctypes.data, calls, counters.ctypes.data)
    else:
        run_serially(rows.ctypes.data, calls)
    if fault[0]:
        raise RefusedError


def to_blocked(array: Array, layout: Blocked, fill: float = 7.0) -> Array:
    """Return a plain (N, C, H, W) or (N, C, W) array in blocks; lanes past the last channel hold `fill`."""
    n, blocks, rows, columns, lanes = layout.extents(array.shape)
    plain = array if array.ndim == 4 else array[:, :, None, :]
    c, h, w = plain.shape[1:]
    top, left, _, _ = layout.pad
    full = np.full((n, blocks * lanes, h, w), fill, array.dtype)
    full[:, :c] = plain
    held = aligned_empty((n, blocks, rows, columns, lanes), array.dtype)
    held[...] = 0
    held[:, :, top : top + h, left : left + w] = full.reshape(n, blocks, lanes, h, w).transpose(0, 1, 3, 4, 2)
    return held


def from_blocked(held: Array, shape: Sequence[int], layout: Blocked) -> Array:
    """Return the plain array of one in blocks; its border must be zero."""
    n, c = shape[:2]
    h, w = shape[2:] if len(shape) == 4 else (1, shape[2])
    top, left, _, _ = layout.pad
    inner = held[:, :, top : top + h, left : left + w]
    border = held.copy()
    border[:, :, top : top + h, left : left + w] = 0
    assert not border.any(), "wrote into the border"
    plain = inner.transpose(0, 1, 4, 2, 3).reshape(n, -1, h, w)[:, :c]
    return np.ascontiguousarray(plain).reshape(tuple(shape))


def check_lowered(
    op_type: str,
    inputs: Sequence[Array | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    opset: int = 24,
    domain: str = "",
    rtol: float = 0.0,
    atol: float = 0.0,
    n_outputs: int = 1,
    **options: Any,
) -> None:
    """Assert that a lowering agrees with the reference kernel: types, shapes, NaN, values."""
    expected = reference(op_type, inputs, attributes or {}, opset, domain)[:n_outputs]
    wanted = [(y.shape, y.dtype) for y in expected]
    found = run_lowered(op_type, inputs, wanted, attributes, opset=opset, domain=domain, **options)
    for y, e in zip(found, expected, strict=True):
        assert y is not None
        if rtol == 0 and atol == 0:
            np.testing.assert_array_equal(y, e)
        else:
            np.testing.assert_allclose(y, e, rtol=rtol, atol=atol)
