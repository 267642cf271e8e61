"""Control flow: If, Loop and Scan, whose subgraphs are callables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from onnxref.dtypes import Array, DType, to_numpy
from onnxref.errors import KernelError
from onnxref.registry import Body, Context, op

from ._checks import check_addressable, check_choice, element_type, normalize_axis, scalar
from ._common import zeros

_ALL_SINCE_11 = (11, 13, 16, 19, 21, 23, 24, 25)


def _truth(cond: Any, name: str) -> bool:
    if not isinstance(cond, np.ndarray | np.generic) or cond.size != 1:
        raise KernelError(f"{name} must be a tensor with one element (got {_describe(cond)})")
    return bool(cond.item())


def _describe(value: Any) -> str:
    return f"shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


@op("If", since=(1, *_ALL_SINCE_11))
def if_(cond: Array, *, then_branch: Body, else_branch: Body) -> tuple[Any, ...]:
    """Return what the one branch or the other returns (ONNX If-25)."""
    return (then_branch if _truth(cond, "cond") else else_branch)()


class _ScanOutput:
    """One output that grows by an element per iteration; only what really came takes memory."""

    def __init__(self, name: str, declared: Any, ctx: Context) -> None:
        self.name = name
        self.declared = declared
        self.budget = ctx.budget
        self.elements: list[Array] = []
        self.size = 0

    def add(self, element: Any) -> None:
        if isinstance(element, np.generic):
            element = np.asarray(element)
        if not isinstance(element, np.ndarray):
            raise KernelError(f"scan output {self.name!r} must be a tensor (got {_describe(element)})")
        if self.elements:
            self.check(element)
        # The same tensor may come again and again: only stacking makes it large.
        self.size += element.nbytes
        self.budget.check_bytes(self.size, f"scan output {self.name!r}")
        self.elements.append(element)

    def check(self, element: Array) -> None:
        """Refuse an element that is unlike the first one."""
        first = self.elements[0]
        if element.shape != first.shape or element.dtype != first.dtype:
            raise KernelError(
                f"{self.name!r} must have the same type and shape each time, {first.dtype} {first.shape}"
                f" (got {element.dtype} {element.shape})"
            )

    def stack(self, axis: int = 0, *, backwards: bool = False) -> Array:
        """Return the elements along a new axis, the last one first where `backwards`."""
        shape, dtype = self.element_type()
        axis = normalize_axis(axis, len(shape) + 1, "scan_output_axes")
        if self.elements:
            return np.stack(self.elements[::-1] if backwards else self.elements, axis)
        return zeros(check_addressable((*shape[:axis], 0, *shape[axis:]), dtype), dtype)

    def element_type(self) -> tuple[tuple[int, ...], DType]:
        """Return shape and dtype of an element; where none came, as declared.

        What is not declared is 0 for a size and float for a type, a guess that has no elements.
        """
        if self.elements:
            return self.elements[0].shape, self.elements[0].dtype
        shape = getattr(self.declared, "shape", None) or ()
        element = getattr(self.declared, "element", 0)
        dtype = np.dtype(np.float32)
        if element:
            dtype = to_numpy(element_type(element, f"type of scan output {self.name!r}"))
        return tuple(d if isinstance(d, int) and d >= 0 else 0 for d in shape), dtype


def _scan_outputs(body: Body, first: int, ctx: Context) -> list[_ScanOutput]:
    names, types = body.output_names[first:], body.output_types[first:]
    return [_ScanOutput(name, declared, ctx) for name, declared in zip(names, types, strict=True)]


def _check_body(body: Body, n_inputs: int, least_outputs: int) -> None:
    if len(body.input_names) != n_inputs:
        raise KernelError(f"body must have {n_inputs} inputs (got {len(body.input_names)})")
    if len(body.output_names) < least_outputs:
        raise KernelError(f"body must have at least {least_outputs} outputs (got {len(body.output_names)})")


@op("Loop", since=(1, *_ALL_SINCE_11))
def loop(
    m: Array | None = None, cond: Array | None = None, *v_initial: Any, body: Body, ctx: Context
) -> tuple[Any, ...]:
    """Run `body` up to `m` times and while the condition holds (ONNX Loop-25).

    Returns the N carried values, then the scan outputs stacked along a new first axis. As the
    schema's table has it, the condition that the body returns counts only where `cond` is given.
    """
    count = None if m is None else int(scalar(m, "M"))
    if count is None and cond is None:
        raise KernelError("M and cond must not both be absent (got a loop without an end)")
    n = len(v_initial)
    _check_body(body, n + 2, n + 1)
    scans = _scan_outputs(body, n + 1, ctx)
    carried, condition = v_initial, np.array(True) if cond is None else cond
    i = 0
    while (count is None or i < count) and (cond is None or _truth(condition, "cond")):
        # Counted here as well: the body may have no node that would be.
        ctx.budget.step()
        condition, *results = body(np.array(i, np.int64), condition, *carried)
        carried = tuple(results[:n])
        for scan_output, element in zip(scans, results[n:], strict=True):
            scan_output.add(element)
        i += 1
    return (*carried, *(scan_output.stack() for scan_output in scans))


def _per_item(values: Sequence[int] | None, count: int, name: str) -> list[int]:
    """Return a list attribute with one value per scan input or output, 0 by default."""
    if values is None:
        return [0] * count
    if len(values) != count:
        raise KernelError(f"{name} must have {count} elements (got {len(values)})")
    return list(values)


def _directions(values: Sequence[int] | None, count: int, name: str) -> list[bool]:
    found = _per_item(values, count, name)
    for value in found:
        check_choice(value, (0, 1), name)
    return [value == 1 for value in found]


def _split_inputs(values: Sequence[Any], num_scan_inputs: int) -> tuple[tuple[Any, ...], list[Array]]:
    """Return (initial states, scan inputs)."""
    n = len(values) - num_scan_inputs
    if num_scan_inputs < 1 or n < 0:
        raise KernelError(f"num_scan_inputs must be in [1, {len(values)}] (got {num_scan_inputs})")
    return tuple(values[:n]), list(values[n:])


def _common_size(sizes: Iterable[int], what: str) -> int:
    found = set(sizes)
    if len(found) != 1:
        raise KernelError(f"all inputs must have the same {what} (got {sorted(found)})")
    return found.pop()


def _run_scan(
    body: Body,
    states: tuple[Any, ...],
    steps: Iterable[tuple[Any, ...]],
    scans: list[_ScanOutput],
    ctx: Context,
) -> tuple[Any, ...]:
    """Run `body` once for each tuple of scan elements; return the final states."""
    n = len(states)
    for elements in steps:
        ctx.budget.step()
        results = body(*states, *elements)
        states = tuple(results[:n])
        for scan_output, element in zip(scans, results[n:], strict=True):
            scan_output.add(element)
    return states


@op("Scan", since=(9, *_ALL_SINCE_11[:1], *_ALL_SINCE_11[2:]))
def scan(
    *initial_state_and_scan_inputs: Any,
    body: Body,
    num_scan_inputs: int,
    scan_input_axes: Sequence[int] | None = None,
    scan_input_directions: Sequence[int] | None = None,
    scan_output_axes: Sequence[int] | None = None,
    scan_output_directions: Sequence[int] | None = None,
    ctx: Context,
) -> tuple[Any, ...]:
    """Run `body` over slices of the scan inputs (ONNX Scan-25).

    Returns the final states, then the scan outputs stacked along `scan_output_axes`.
    """
    states, inputs = _split_inputs(initial_state_and_scan_inputs, num_scan_inputs)
    _check_body(body, len(states) + num_scan_inputs, len(states))
    scans = _scan_outputs(body, len(states), ctx)
    axes = _per_item(scan_input_axes, num_scan_inputs, "scan_input_axes")
    reverse = _directions(scan_input_directions, num_scan_inputs, "scan_input_directions")
    out_axes = _per_item(scan_output_axes, len(scans), "scan_output_axes")
    backwards = _directions(scan_output_directions, len(scans), "scan_output_directions")
    along = [
        np.moveaxis(x, normalize_axis(axis, x.ndim, "scan_input_axes"), 0)
        for x, axis in zip(inputs, axes, strict=True)
    ]
    length = _common_size((len(x) for x in along), "length along the scanned axes")
    steps = (
        tuple(x[length - 1 - t if back else t, ...] for x, back in zip(along, reverse, strict=True))
        for t in range(length)
    )
    states = _run_scan(body, states, steps, scans, ctx)
    stacked = (s.stack(axis, backwards=b) for s, axis, b in zip(scans, out_axes, backwards, strict=True))
    return (*states, *stacked)


def _padded(empty: _ScanOutput, *items: _ScanOutput, longest: int, ctx: Context) -> Array:
    """Stack the scan outputs of all batch items `(batch, longest, ...)`, zeros where one is shorter.

    `empty` knows their type where no item has an element.
    """
    first = next((item for item in items if item.elements), empty)
    shape, dtype = first.element_type()
    full = (len(items), longest, *shape)
    ctx.budget.check_bytes(math.prod(full) * dtype.itemsize, f"scan output {first.name!r}")
    out = zeros(check_addressable(full, dtype), dtype)
    for row, item in zip(out, items, strict=True):
        if item.elements:
            first.check(item.elements[0])
            row[: len(item.elements)] = item.stack()
    return out


def _batch_sizes(initial: Sequence[Array], inputs: Sequence[Array], lens: Array | None) -> tuple[int, int]:
    """Return (batch size, length of the time axis), having checked `sequence_lens` against them."""
    if any(x.ndim < 1 for x in initial) or any(x.ndim < 2 for x in inputs):
        raise KernelError("states must have a batch axis and scan inputs a batch and a time axis")
    batch = _common_size((len(x) for x in (*initial, *inputs)), "batch size")
    longest = _common_size((x.shape[1] for x in inputs), "sequence length")
    if lens is not None and (lens.shape != (batch,) or not ((lens >= 0) & (lens <= longest)).all()):
        got = lens.ravel()[:20]
        raise KernelError(f"sequence_lens must be {batch} lengths in [0, {longest}] (got {got})")
    return batch, longest


@op("Scan", since=8)
def scan_8(
    sequence_lens: Array | None = None,
    *initial_state_and_scan_inputs: Any,
    body: Body,
    num_scan_inputs: int,
    directions: Sequence[int] | None = None,
    ctx: Context,
) -> tuple[Any, ...]:
    """Run `body` over axis 1 of the scan inputs, for each item of batch axis 0 (ONNX Scan-8).

    Returns the final states `(batch, ...)`, then the scan outputs `(batch, time, ...)`. Shorter
    sequences read backwards start at their own end; the spec leaves open what stands after it.
    """
    initial, inputs = _split_inputs(initial_state_and_scan_inputs, num_scan_inputs)
    n = len(initial)
    _check_body(body, n + num_scan_inputs, n)
    reverse = _directions(directions, num_scan_inputs, "directions")
    batch, longest = _batch_sizes(initial, inputs, sequence_lens)
    finals = [_ScanOutput(name, None, ctx) for name in body.output_names[:n]]
    items: list[list[_ScanOutput]] = []
    for b in range(batch):
        ctx.budget.step()
        length = longest if sequence_lens is None else int(sequence_lens[b])
        steps = (
            tuple(x[b, length - 1 - t if back else t, ...] for x, back in zip(inputs, reverse, strict=True))
            for t in range(length)
        )
        items.append(_scan_outputs(body, n, ctx))
        states = _run_scan(body, tuple(s[b, ...] for s in initial), steps, items[-1], ctx)
        for final, state in zip(finals, states, strict=True):
            final.add(state)
    columns = zip(_scan_outputs(body, n, ctx), *items, strict=True)
    stacked = [_padded(*column, longest=longest, ctx=ctx) for column in columns]
    return (*((final.stack() for final in finals) if batch else initial), *stacked)
