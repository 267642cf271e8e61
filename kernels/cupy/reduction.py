"""Reductions along axes and arg-extremes.

A reduction of any axes becomes one or more launches that reduce the middle of (outer, n, inner), each
the innermost axis that is left. Few results of many elements are made in two launches: of parts, then of
the parts' results; every sum has a fixed order. Tolerances against the reference: sums, means, norms and
products 2e-6 of the sum of magnitudes (products: of the result) for float32, 1e-14 for float64, and one
rounding for the 16-bit types; log-sum-exp 5e-7 plus 2e-6 of the result; extremes, indices and integers
are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onnxref.dtypes import DType
from onnxref.gpu import CTYPES, Kernel, cuda_kernel
from onnxref.lowering import Operand, Scratch, Site, Unsupported, lower

from ._rows import BUSY, FLOATS, INTEGERS, power_above, vector_width

_CODE = "onnxref.kernels.cupy.code"
_PLAIN, _LOG_SUM_EXP, _ARG = 0, 1, 2  # kinds, as in the code
_NONE, _MEAN, _ROOT, _LOG = 0, 1, 2, 3  # what follows, as in the code


class _Reduction(NamedTuple):
    take: str  # how elements are taken in
    combine: str
    final: int  # what is made of the accumulator in the end
    axes_attribute: tuple[int, ...]  # schema versions whose axes are an attribute
    axes_input: tuple[int, ...]  # schema versions whose axes are an input
    kind: int = _PLAIN


_REDUCTIONS = {
    "ReduceL1": _Reduction("Magnitude", "Sum", _NONE, (1, 11, 13), (18,)),
    "ReduceL2": _Reduction("Square", "Sum", _ROOT, (1, 11, 13), (18,)),
    "ReduceLogSum": _Reduction("Identity", "Sum", _LOG, (1, 11, 13), (18, 28)),
    "ReduceLogSumExp": _Reduction("Identity", "Sum", _NONE, (1, 11, 13), (18, 28), _LOG_SUM_EXP),
    "ReduceMax": _Reduction("Identity", "Maximum", _NONE, (1, 11, 12, 13), (18, 20)),
    "ReduceMean": _Reduction("Identity", "Sum", _MEAN, (1, 11, 13), (18,)),
    "ReduceMin": _Reduction("Identity", "Minimum", _NONE, (1, 11, 12, 13), (18, 20)),
    "ReduceProd": _Reduction("Identity", "Product", _NONE, (1, 11, 13), (18,)),
    "ReduceSum": _Reduction("Identity", "Sum", _NONE, (1, 11), (13,)),
    "ReduceSumSquare": _Reduction("Square", "Sum", _NONE, (1, 11, 13), (18,)),
}


def _register(name: str, reduction: _Reduction) -> None:
    @lower(name, since=reduction.axes_attribute, backend="cupy")
    def by_attribute(
        site: Site, data: Operand, *, axes: Sequence[int] | None = None, keepdims: int = 1
    ) -> None:
        """Reduce along `axes`, all of them by default (ONNX Reduce*-1, -11, -12, -13)."""
        _reduce(site, reduction, data, axes or range(data.ndim))

    @lower(name, since=reduction.axes_input, backend="cupy")
    def by_input(
        site: Site,
        data: Operand,
        axes: Operand | None = None,
        *,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> None:
        """Reduce along `axes`, by default all or (noop_with_empty_axes) none of them (ONNX Reduce*-18)."""
        if axes is not None and axes.constant is None:
            raise Unsupported("the axes are not constant")
        given = [] if axes is None or axes.constant is None else [int(i) for i in axes.constant.reshape(-1)]
        nothing = range(0 if noop_with_empty_axes else data.ndim)
        _reduce(site, reduction, data, given or nothing)


for _name, _reduction in _REDUCTIONS.items():
    _register(_name, _reduction)


def _reduce(site: Site, reduction: _Reduction, x: Operand, axes: Sequence[int]) -> None:
    y = site.outputs[0]
    if y is None:
        raise Unsupported("nothing wants its output")
    allowed = (*FLOATS, *INTEGERS, *(("bool",) if reduction.combine in ("Maximum", "Minimum") else ()))
    if x.dtype.name not in allowed or x.layout or y.layout:
        raise Unsupported(f"a reduction of {x}")
    if any(not -x.ndim <= axis < x.ndim for axis in axes):
        raise Unsupported("an axis is out of range")
    reduced = {axis % x.ndim for axis in axes}
    groups = _grouped(x.shape, reduced) if x.size else [(y.size, False), (0, True)]
    is_whole = not any(is_reduced for _, is_reduced in groups)
    if is_whole and reduction.take == "Identity" and reduction.final in (_NONE, _MEAN) and not reduction.kind:
        site.alias(y, x)
        return
    count = math.prod(x.shape[axis] for axis in reduced)
    defines = _defines(reduction, x, y)
    Reducer(site, x, y, groups, count, defines).emit()


def _grouped(shape: Sequence[int], reduced: set[int]) -> list[tuple[int, bool]]:
    """Return (elements, whether reduced) of neighbouring axes that are alike, without axes of 1."""
    groups: list[tuple[int, bool]] = []
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        if groups and groups[-1][1] == (axis in reduced):
            size *= groups.pop()[0]
        groups.append((size, axis in reduced))
    return groups


def _accumulator(dtype: DType, kind: int) -> str:
    """Return the CUDA type of partial results."""
    if dtype == np.float64 or (kind == _LOG_SUM_EXP and dtype.kind in "iub"):
        return "double"
    if dtype.name in FLOATS:
        return "float"
    return "int64_t" if dtype.kind == "i" else "uint64_t"


def _limits(dtype: DType) -> tuple[str, str]:
    """Return the least and the greatest of a type as text."""
    if dtype.name in FLOATS:
        return "(-INFINITY)", "INFINITY"
    if dtype.kind == "b":
        return "0", "1"
    info = np.iinfo(dtype)
    if dtype.kind == "u":
        return "0", f"{info.max}ull"
    return f"({info.min + 1}ll - 1)", f"{info.max}ll"


def _defines(reduction: _Reduction, x: Operand, y: Operand) -> dict[str, str | int]:
    low, high = _limits(x.dtype)
    # -0 is what leaves every number as it is, but the sum of nothing is +0.
    zero = "(-0.0)" if x.dtype.name in FLOATS and x.size else "0"
    first = {"Sum": zero, "Product": "1", "Maximum": low, "Minimum": high}[reduction.combine]
    return {
        "T": CTYPES[x.dtype.name],
        "Y": CTYPES[y.dtype.name],
        "A": _accumulator(x.dtype, reduction.kind),
        "KIND": reduction.kind,
        "TAKE": reduction.take,
        "COMBINE": reduction.combine,
        "INIT": first,
        "FINAL": reduction.final,
        "IS_INTEGER": int(x.dtype.kind in "iub"),
        "LOWEST": low,
        "HIGHEST": high,
    }


class Reducer:
    """The launches of one reduction: each takes the innermost axis that is left to reduce.

    Attributes:
        groups: (elements, whether reduced) of the axes that are left.
        count: elements that one result is made of.
        partial: bytes of a partial result.
    """

    def __init__(
        self,
        site: Site,
        x: Operand,
        y: Operand | Scratch,
        groups: list[tuple[int, bool]],
        count: int,
        defines: dict[str, str | int],
    ) -> None:
        self.site, self.y, self.groups, self.count = site, y, groups, count
        self.source: Operand | Scratch = x
        self.itemsize = x.dtype.itemsize
        self.defines = dict(defines)
        self.is_partial = False
        value = 4 if defines["A"] == "float" else 8
        self.partial = value * 2 if defines["KIND"] else value

    def emit(self) -> None:
        while True:
            places = [i for i, (_, is_reduced) in enumerate(self.groups) if is_reduced]
            at = places[-1] if places else len(self.groups)
            n = self.groups[at][0] if places else 1
            outer = math.prod(size for size, _ in self.groups[:at])
            inner = math.prod(size for size, _ in self.groups[at + 1 :])
            if not places:
                outer, inner = 1, outer
            if max(n, inner) >= 2**31 - 2**16:
                raise Unsupported("an axis is too long")
            step = _columns if inner > 1 or not places else _rows
            plan = step(outer, n, inner, self._vec(n if step is _rows else inner), self._strict)
            is_last = len(places) <= 1 and plan.parts == 1
            self._launch(outer, n, inner, plan, is_last)
            if is_last:
                return
            self.groups[at : at + 1] = [(plan.parts, True)] if plan.parts > 1 else []

    @property
    def _strict(self) -> bool:
        return self.site.precision == "strict"

    def _vec(self, extent: int) -> int:
        return 1 if self.is_partial else min(8, vector_width(self.itemsize, extent))

    def _launch(self, outer: int, n: int, inner: int, plan: _Plan, is_last: bool) -> None:
        units = outer * plan.parts
        made = self.y if is_last else self.site.scratch(units * inner * self.partial)
        states = {"FROM_PARTIAL": int(self.is_partial), "TO_PARTIAL": int(not is_last)}
        kernel: Kernel = cuda_kernel(
            _CODE, "reduction.cu", plan.entry, **self.defines, **states, VEC=plan.vec, GROUP=plan.group
        )
        if plan.entry == "reduce_rows":
            threads = plan.block[0]
            grid = -(-units * plan.group // threads) if plan.group else units
            arguments: tuple[int, ...] = (units, n, plan.parts, plan.length, self.count)
            shared = 0
        else:
            grid = -(-units * (inner // plan.vec) // plan.block[0])
            arguments = (units, n, inner, plan.parts, plan.length, self.count)
            shared = plan.block[0] * plan.block[1] * plan.vec * self.partial if plan.block[1] > 1 else 0
        self.site.launch(
            kernel, self.source, made, *arguments, grid=(grid, 1, 1), block=plan.block, shared=shared
        )
        self.source, self.is_partial = made, not is_last


class _Plan(NamedTuple):
    """How one launch reduces.

    Attributes:
        group: threads that have a row; 0 for a block.
        parts, length: into how many parts n is cut, and their extent.
    """

    entry: str
    vec: int
    group: int
    parts: int
    length: int
    block: tuple[int, int, int]


def _rows(outer: int, n: int, inner: int, vec: int, strict: bool) -> _Plan:
    """Return how rows are reduced: short ones by a part of a warp, long ones by blocks."""
    vectors = n // vec
    if vectors <= 128:
        group = min(32, power_above(-(-vectors // 4)))
        return _Plan("reduce_rows", vec, group, 1, max(n, 1), (256, 1, 1))
    wanted = 1 if strict else outer
    threads = 512 if vectors >= 4096 else 256 if vectors >= 1024 else 128
    # Parts of at least eight accesses a thread, as many as keep the card busy.
    parts = max(1, min(BUSY // (max(1, wanted) * threads), vectors // (threads * 8)))
    length = -(-vectors // parts) * vec
    return _Plan("reduce_rows", vec, 0, -(-n // length), length, (threads, 1, 1))


def _columns(outer: int, n: int, inner: int, vec: int, strict: bool) -> _Plan:
    """Return how columns are reduced: threads side by side on neighbours, and above each other along n."""
    columns = (1 if strict else outer) * (inner // vec)
    along = min(32, max(1, n // 4), -(-BUSY // max(1, columns)))
    along = power_above(along + 1) // 2
    blocks = -(-columns // (256 // along))
    parts = max(1, min(BUSY // (256 * max(1, blocks)), n // (along * 16)))
    length = max(1, -(-n // parts))
    return _Plan("reduce_columns", vec, 0, max(1, -(-n // length)), length, (256 // along, along, 1))


# --- arg-extremes --------------------------------------------------------------------------------


@lower("ArgMax", since=(1, 11, 12, 13), backend="cupy")
def arg_max(
    site: Site, data: Operand, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
) -> None:
    """ONNX ArgMax-13, exact; versions 1 and 11 have no select_last_index."""
    _arg_extreme(site, data, axis, greatest=True, last=bool(select_last_index))


@lower("ArgMin", since=(1, 11, 12, 13), backend="cupy")
def arg_min(
    site: Site, data: Operand, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
) -> None:
    """ONNX ArgMin-13, exact; versions 1 and 11 have no select_last_index."""
    _arg_extreme(site, data, axis, greatest=False, last=bool(select_last_index))


def _arg_extreme(site: Site, x: Operand, axis: int, *, greatest: bool, last: bool) -> None:
    (y,) = site.outputs
    if y is None:
        raise Unsupported("nothing wants its output")
    if not -x.ndim <= axis < x.ndim or x.shape[axis] == 0:
        raise Unsupported("the axis is out of range or empty")
    axis %= x.ndim
    extents = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    emit_arg(site, x, y, extents, greatest=greatest, last=last)


def emit_arg(
    site: Site,
    x: Operand,
    y: Operand | Scratch,
    extents: tuple[int, int, int],
    *,
    greatest: bool,
    last: bool,
) -> None:
    """Emit the int64 indices of extremes along the middle of x, seen as (outer, n, inner) = `extents`."""
    if x.dtype.name not in (*FLOATS, *INTEGERS) or x.layout:
        raise Unsupported(f"extremes of {x}")
    if x.size == 0:
        return
    outer, n, inner = extents
    defines: dict[str, str | int] = {
        "T": CTYPES[x.dtype.name],
        "Y": "int64_t",
        "A": _accumulator(x.dtype, _ARG),
        "KIND": _ARG,
        "GREATEST": int(greatest),
        "LAST_INDEX": int(last),
        "IS_INTEGER": 1,
        "LOWEST": "0",
        "HIGHEST": "0",
    }
    groups = [(outer, False), (n, True), (inner, False)]
    if inner == 1:
        groups.pop()
    Reducer(site, x, y, groups, n, defines).emit()
