"""Elementwise programs as generated CUDA kernels: single operators, casts, and chains of them.

Arithmetic is bit-equal to NumPy's: nothing is contracted or reassociated. Transcendental functions are within
the errors of CUDA's library (at most 4 units in the last place; Gelu and Pow grow with the logarithm of
the result). float16 and bfloat16 are computed in float32 and rounded after each operator.

How a kernel walks over its tensors depends on the shapes
    flat      all operands are as large as the result, or one value: no index arithmetic
    rows      a thread's vector lies within one row; the row's coordinates are found once for each vector
    elements  rows that vectors do not fill: coordinates are found for each element of what is broadcast,
              all else goes in vectors as before
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from onnxref.dtypes import Array
from onnxref.gpu import CTYPES, Kernel, cuda_kernel, grid_for
from onnxref.lowering import (
    NO_PAD,
    BlockedUse,
    ChannelsLast,
    DeviceArgument,
    Op,
    Operand,
    Packed,
    Site,
    Unsupported,
)

from ..common.instructions import Instruction, Shape, register_chain
from ..common.strides import collapse
from .instructions import HALVES, check, computed_in, element_text

_CODE = "onnxref.kernels.cupy.code"
Input: TypeAlias = Operand | Packed

_THREADS = 256
_MANY = (
    1 << 20
)  # elements from which on a thread takes two vectors: enough blocks are left for all processors
_MAX_OUTER = 7
_LOCATED = ("vector", "single", "gather")  # walks that need coordinates


# --- where the operands lie ----------------------------------------------------------------------


@dataclass(slots=True)
class _View:
    """How an operand is walked along the dimensions of the result.

    Attributes:
        strides: in elements, 0 where the operand repeats.
        value: the number that it is, where that is known and only one.
        walk: "full" as a result without gaps, "value" an argument, "one" the first element; in rows: "vector"
            along the row, "single" one for the row; else "gather".
    """

    source: Input
    dtype: str
    strides: list[int]
    value: int | float | np.float64 | None = None
    walk: str = ""
    is_result: bool = False

    @property
    def itemsize(self) -> int:
        return 2 if self.dtype in HALVES else np.dtype(self.dtype).itemsize


def _order(rank: int, is_last: bool) -> list[int]:
    """Return the axes in the order in which they lie in memory."""
    return [0, *range(2, rank), 1] if is_last else list(range(rank))


def _view(x: Input, shape: Shape, goal: Shape) -> _View:
    """View an operand, seen under `shape`, as broadcast to `goal`; strides go by the goal's axes."""
    if len(shape) > len(goal):
        raise Unsupported(f"an input of rank {len(shape)} for a result of rank {len(goal)}")
    layout = x.layout if isinstance(x, Operand) else None
    if layout is not None and layout.lanes:
        raise Unsupported(f"an operand {layout}")
    strides = [0] * len(shape)
    step = 1
    for axis in reversed(_order(len(shape), layout is not None)):
        strides[axis] = 0 if shape[axis] == 1 else step
        step *= shape[axis]
        if axis == 1 and isinstance(layout, ChannelsLast) and layout.pitch:
            step = layout.pitch
    for extent, wanted in zip(shape, goal[len(goal) - len(shape) :], strict=True):
        if extent not in (1, wanted):
            raise Unsupported(f"shape {shape} does not broadcast to {goal}")
    value = None
    if isinstance(x, Operand) and x.constant is not None and x.size == 1:
        value = _argument(x.constant)
    return _View(x, _name(x), [*[0] * (len(goal) - len(shape)), *strides], value)


def _argument(value: Array) -> int | float | np.float64:
    """Return a single number as a kernel takes it."""
    name = value.dtype.name
    if name == "float64":
        return np.float64(value.item())
    if name in ("float32", *HALVES):
        return float(value.astype(np.float32).item())
    number = int(value.item())
    return number - (1 << 64) if number >= 1 << 63 else number


def _in_order(site: Site, x: Input, shape: Shape, goal: Shape) -> tuple[Input, list[int] | None]:
    """Return a constant that lies plainly beside channels-last tensors, packed to lie as they do."""
    if isinstance(x, Packed) or x.constant is None or x.layout is not None or x.size == 1:
        return x, None
    full = (1,) * (len(goal) - len(shape)) + tuple(shape)
    if len(shape) > len(goal) or full[1] == 1 or math.prod(full[2:]) == 1:
        return x, None
    order = _order(len(full), True)
    constant = x.constant
    packed = site.pack((x,), ("channels last", full), lambda: constant.reshape(full).transpose(order))
    lying = [full[axis] for axis in order]
    strides = [0 if n == 1 else math.prod(lying[i + 1 :]) for i, n in enumerate(lying)]
    return packed, [strides[order.index(axis)] for axis in range(len(full))]


def _collapse(extents: Sequence[int], views: Sequence[_View]) -> list[int]:
    """Drop and merge dimensions of all views; return the extents of those that are left."""
    kept, strides = collapse(extents, [view.strides for view in views])
    for view, found in zip(views, strides, strict=True):
        view.strides = found
    return kept


# --- how they are walked -------------------------------------------------------------------------


def _plan(dims: Sequence[int], views: Sequence[_View]) -> int:
    """Set how each view is walked; return how many elements a thread takes at once."""
    dense = [math.prod(dims[i + 1 :]) for i in range(len(dims))]
    for view in views:
        if view.value is not None:
            view.walk = "value"
        elif not any(view.strides) and not view.is_result:
            view.walk = "one"
        else:
            view.walk = "full" if view.strides == dense else ""
    rest = [view for view in views if not view.walk]
    sizes = [view.itemsize for view in views if view.walk == "full" or view.is_result]
    widest = max(1, min(16 // min(sizes), 32 // max(sizes)))
    if not rest:
        return widest
    for wanted in (widest, widest // 2):
        if wanted > 1 and _fills_rows(dims, rest, wanted):
            for view in rest:
                view.walk = "vector" if view.strides[-1] else "single"
            return wanted
    for view in rest:
        view.walk = "gather"
    return min(widest, 8)


def _fills_rows(dims: Sequence[int], views: Sequence[_View], count: int) -> bool:
    """Whether vectors of `count` elements lie within a row, aligned in all operands."""
    return dims[-1] % count == 0 and all(
        view.strides[-1] == 0
        or (view.strides[-1] == 1 and all(stride % count == 0 for stride in view.strides[:-1]))
        for view in views
    )


def _divider(extent: int) -> tuple[int, int, int]:
    """Return (extent, multiplier, shift) of a division of numbers below 2**31; see code/chain.cuh."""
    shift = (extent - 1).bit_length()
    return extent, ((1 << 32) * ((1 << shift) - extent)) // extent + 1, shift


# --- the text of a kernel ------------------------------------------------------------------------


def _load_line(k: int, view: _View) -> str:
    """Return the statement that loads a vector of an operand, or element `i` of what is gathered."""
    place = f"offset_of(place, s{k})"
    match view.walk:
        case "full":
            return f"load<WHOLE>(a{k}[u], x{k}, at, count);"
        case "vector":
            return f"if (WHOLE || at < count) load<true>(a{k}[u], x{k} + {place}, 0, VEC);"
        case "single":
            return f"if (WHOLE || at < count) a{k}[u] = x{k}[{place}];"
    return f"if (WHOLE || at + i < count) a{k}[u][i] = x{k}[{place}];"


def _held(k: int, view: _View) -> str:
    kind = CTYPES[view.dtype]
    match view.walk:
        case "full" | "vector" | "gather":
            return f"    {kind} a{k}[UNROLL][VEC] = {{}};"
        case "single":
            return f"    {kind} a{k}[UNROLL] = {{}};"
        case "one":
            return f"    {computed_in(view.dtype)} a{k} = widen(x{k}[0]);"
    return f"    {computed_in(view.dtype)} a{k} = {computed_in(view.dtype)}(x{k});"


def _parameters(inputs: Sequence[_View], outputs: Sequence[_View]) -> tuple[list[str], list[str]]:
    """Return (declarations, names) of a kernel's parameters."""
    declared, names = [], []
    for k, view in enumerate(inputs):
        if view.walk == "value":
            kind = computed_in(view.dtype)
            declared.append(f"{kind if kind in ('float', 'double') else 'long long'} x{k}")
        else:
            declared.append(f"const {CTYPES[view.dtype]} *x{k}")
        names.append(f"x{k}")
    for k, view in enumerate(outputs):
        declared.append(f"{CTYPES[view.dtype]} *out{k}")
        names.append(f"out{k}")
    located = [f"s{k}" for k, view in enumerate(inputs) if view.walk in _LOCATED]
    located += [f"t{k}" for k, view in enumerate(outputs) if view.walk in _LOCATED]
    if located:
        declared += ["Dividers by", *(f"Strides {name}" for name in located)]
        names += ["by", *located]
    return declared, names


def kernel_text(
    program: Sequence[Instruction],
    dtypes: Sequence[str],
    results: Sequence[int],
    inputs: Sequence[_View],
    outputs: Sequence[_View],
) -> str:
    """Return the CUDA text of a program's kernel."""
    names = ", ".join(name for name, _, _ in program)
    goals = [view.dtype for view in outputs]
    declared, passed = _parameters(inputs, outputs)
    shown = "\n    " + ",\n    ".join(declared)
    lines = [
        '#include "chain.cuh"',
        "",
        f"// {names}: of {', '.join(dtypes[: len(inputs)])}, giving {', '.join(goals)}.",
        element_text(program, dtypes, results),
        "",
        "// UNROLL vectors of elements from `begin` on; WHOLE: all of them lie before `count`.",
        "template <bool WHOLE>",
        f"__device__ __forceinline__ void piece({shown}, INDEX begin, INDEX count) {{",
        *(_held(k, view) for k, view in enumerate(inputs)),
    ]
    lines += [*_all_loads(inputs), *_compute_lines(outputs, inputs)]
    head = 'extern "C" __global__ void __launch_bounds__(THREADS)'
    lines += [
        "}",
        "",
        f"{head} chain({shown}, long long size) {{",
        "    INDEX count = INDEX(size), first = INDEX(blockIdx.x) * (STEP * UNROLL);",
        "    INDEX begin = first + threadIdx.x * VEC;",
        f"    if (first + STEP * UNROLL <= count) piece<true>({', '.join(passed)}, begin, count);",
        f"    else piece<false>({', '.join(passed)}, begin, count);",
        "}",
        "",
    ]
    return "\n".join(lines)


def _all_loads(inputs: Sequence[_View]) -> list[str]:
    """Return the lines that load all vectors of a thread, before anything is computed."""
    whole, by_element = [], []
    for k, view in enumerate(inputs):
        if view.walk == "gather":
            by_element.append(f"            {_load_line(k, view)}")
        elif view.walk in ("full", "vector", "single"):
            whole.append(f"        {_load_line(k, view)}")
    if not whole and not by_element:
        return []
    lines = ["    #pragma unroll", "    for (int u = 0; u < UNROLL; u++) {"]
    lines.append("        INDEX at = begin + u * STEP;")
    if any(view.walk in ("vector", "single") for view in inputs):
        lines += ["        INDEX place[OUTER + 1];", "        locate(at, by, place);"]
    lines += whole
    if by_element:
        lines += ["        #pragma unroll", "        for (int i = 0; i < VEC; i++) {"]
        lines += ["            INDEX place[OUTER + 1];", "            locate(at + i, by, place);"]
        lines += [*by_element, "        }"]
    return [*lines, "    }"]


def _compute_lines(outputs: Sequence[_View], inputs: Sequence[_View]) -> list[str]:
    goals = [view.dtype for view in outputs]
    given = {"value": "a{0}", "one": "a{0}", "single": "widen(a{0}[u])"}
    taken = [given.get(view.walk, "widen(a{0}[u][i])").format(k) for k, view in enumerate(inputs)]
    lines = ["    #pragma unroll", "    for (int u = 0; u < UNROLL; u++) {"]
    lines += [f"        {CTYPES[dtype]} b{k}[VEC];" for k, dtype in enumerate(goals)]
    lines += ["        #pragma unroll", "        for (int i = 0; i < VEC; i++) {"]
    lines += [f"            {computed_in(dtype)} y{k};" for k, dtype in enumerate(goals)]
    lines.append(f"            element({', '.join([*taken, *(f'y{k}' for k in range(len(goals)))])});")
    lines += [f"            b{k}[i] = stored<{CTYPES[dtype]}>(y{k});" for k, dtype in enumerate(goals)]
    lines.append("        }")
    lines += _store_lines(outputs)
    return [*lines, "    }"]


def _store_lines(outputs: Sequence[_View]) -> list[str]:
    """Return the lines that store a vector of each result."""
    lines, by_element = [], []
    if any(view.walk != "full" for view in outputs):
        lines.append("        INDEX at = begin + u * STEP;")
    if any(view.walk == "vector" for view in outputs):
        lines += ["        INDEX place[OUTER + 1];", "        locate(at, by, place);"]
    for k, view in enumerate(outputs):
        match view.walk:
            case "full":
                lines.append(f"        store<WHOLE>(b{k}, out{k}, begin + u * STEP, count);")
            case "vector":
                goal = f"out{k} + offset_of(place, t{k})"
                lines.append(f"        if (WHOLE || at < count) store<true>(b{k}, {goal}, 0, VEC);")
            case _:
                by_element.append(f"            out{k}[offset_of(place, t{k})] = b{k}[i];")
    if by_element:
        lines += ["        #pragma unroll"]
        lines += ["        for (int i = 0; i < VEC && (WHOLE || at + i < count); i++) {"]
        lines += ["            INDEX place[OUTER + 1];", "            locate(at + i, by, place);"]
        lines += [*by_element, "        }"]
    return lines


# --- launches ------------------------------------------------------------------------------------


def emit_program(
    site: Site,
    inputs: Sequence[Input],
    outputs: Sequence[Operand],
    program: Sequence[Instruction],
    results: Sequence[int],
    dtypes: Sequence[str] | None = None,
    shapes: Sequence[Shape] | None = None,
) -> None:
    """Launch a program whose results all have one shape; see `EmitProgram`."""
    if dtypes is None:
        dtypes = [*map(_name, inputs), outputs[0].dtype.name]
    check(program, dtypes)
    goal, layout = outputs[0].shape, outputs[0].layout
    if any(y.shape != goal or (y.layout is None) != (layout is None) for y in outputs):
        raise Unsupported("outputs of different shapes or layouts")
    if shapes is None:
        shapes = [x.shape if isinstance(x, Operand) else x.array.shape for x in inputs]
    views = []
    for x, shape in zip(inputs, shapes, strict=True):
        lying, strides = _in_order(site, x, shape, goal) if layout is not None else (x, None)
        view = _view(lying, shape, goal) if strides is None else _View(lying, _name(lying), strides)
        views.append(view)
    views += [replace(_view(y, goal, goal), is_result=True) for y in outputs]
    for y in outputs:
        for x in inputs:
            if isinstance(x, Operand) and _lie_alike(x, y):
                site.may_overwrite(y, x)
    if math.prod(goal):
        _launch(site, views, goal, layout is not None, tuple(program), tuple(dtypes), tuple(results))


def _lie_alike(x: Operand, y: Operand) -> bool:
    return x.shape == y.shape and x.layout == y.layout and x.dtype.itemsize == y.dtype.itemsize


def _name(x: Input) -> str:
    return x.dtype.name if isinstance(x, Operand) else x.array.dtype.name


def _launch(
    site: Site,
    views: list[_View],
    goal: Shape,
    is_last: bool,
    program: tuple[Instruction, ...],
    dtypes: tuple[str, ...],
    results: tuple[int, ...],
) -> None:
    order = _order(len(goal), is_last)
    for view in views:
        view.strides = [view.strides[axis] for axis in order]
    dims = _collapse([goal[axis] for axis in order], views)
    if len(dims) == 1 and any(view.strides[0] > 1 for view in views):  # one channel of many
        for view in views:
            view.strides.insert(0, dims[0] * view.strides[0])
        dims.insert(0, 1)
    size = math.prod(goal)
    inputs, outputs = views[: -len(results)], views[-len(results) :]
    vector = _plan(dims, views)
    broadcast = [view for view in views if view.walk in _LOCATED]
    outer = len(dims) - 1 if broadcast else 0
    if outer > _MAX_OUTER:
        raise Unsupported(f"{outer + 1} dimensions that cannot be merged")
    unroll = _unroll(size, inputs, vector)
    arguments: list[DeviceArgument] = [
        view.value if view.value is not None else view.source for view in inputs
    ]
    arguments += [view.source for view in outputs]
    if broadcast:
        arguments.append(tuple(n for extent in reversed(dims[1:]) for n in _divider(extent)))
        arguments += [tuple(reversed(view.strides)) for view in broadcast]
    kernel = _kernel(program, dtypes, results, inputs, outputs, _index(size, views), vector, unroll, outer)
    site.launch(
        kernel, *arguments, size, grid=grid_for(size, _THREADS, vector * unroll), block=(_THREADS, 1, 1)
    )


def _unroll(size: int, inputs: Sequence[_View], vector: int) -> int:
    """Return how many vectors a thread loads before it computes: few enough for the registers."""
    held = sum(view.walk in ("full", "vector", "gather") for view in inputs)
    addresses = vector if any(view.walk == "gather" for view in inputs) else 1
    return 2 if size >= _MANY and held <= 3 and vector <= 8 and addresses <= 4 else 1


def _index(size: int, views: Sequence[_View]) -> str:
    """Return the type that counts elements; positions go up to a block's work past the last one."""
    largest = max([size, *(_elements(view.source) for view in views)])
    return "uint32_t" if largest < (1 << 31) - (1 << 16) else "uint64_t"


def _elements(x: Input) -> int:
    return x.buffer_bytes // x.dtype.itemsize if isinstance(x, Operand) else int(x.array.size)


def _kernel(
    program: tuple[Instruction, ...],
    dtypes: tuple[str, ...],
    results: tuple[int, ...],
    inputs: Sequence[_View],
    outputs: Sequence[_View],
    index: str,
    vector: int,
    unroll: int,
    outer: int,
) -> Kernel:
    sizes: dict[str, Any] = {"INDEX": index, "VEC": vector, "UNROLL": unroll, "OUTER": outer}
    text = kernel_text(program, dtypes, results, inputs, outputs)
    return cuda_kernel(_CODE, "chain.cuh", "chain", text, THREADS=_THREADS, **sizes)


# --- the fused operator --------------------------------------------------------------------------


def blocked_use(op: Op, lanes: int) -> BlockedUse | None:
    """Say how an elementwise operator goes along with tensors whose channels lie last.

    Operands with values for several channels and pixels must lie so too; constants are turned while planning,
    and all others are small enough to be read in any order.
    """
    outputs = [y for y in op.outputs if y is not None]
    if not outputs or len(outputs) != len(op.outputs):
        return None
    goal = outputs[0].shape
    if len(goal) not in (3, 4, 5) or any(y.shape != goal for y in outputs):
        return None
    wanted = {}
    for i, x in enumerate(op.inputs):
        if x is None or x.constant is not None:
            continue
        if x.ndim == len(goal) and x.shape[1] == goal[1] and x.size > 1:
            wanted[i] = NO_PAD
        elif x.ndim > len(goal):
            return None
    return BlockedUse(wanted, tuple(range(len(outputs))), pitched=True) if wanted else None


register_chain("cupy", emit_program, blocked_use)
