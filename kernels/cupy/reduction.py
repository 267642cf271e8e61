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
from typing import NamedTuple

import numpy as np

from onnxref.dtypes import DType
from onnxref.gpu import CTYPES, Kernel, cuda_kernel
from onnxref.lowering import Operand, Scratch, Site, Unsupported

from ..common.reduction import EXTREMES, REDUCE, Extremes, Reduction
from ._rows import BUSY, FLOATS, INTEGERS, power_above, vector_width

_CODE = "onnxref.kernels.cupy.code"
_PLAIN, _LOG_SUM_EXP, _ARG = 0, 1, 2  # kinds, as in the code
_NONE, _MEAN, _ROOT, _LOG = 0, 1, 2, 3  # what follows, as in the code


class _Way(NamedTuple):
    take: str  # how elements are taken in
    combine: str
    final: int = _NONE  # what is made of the accumulator in the end
    kind: int = _PLAIN


_WAYS = {
    "ReduceL1": _Way("Magnitude", "Sum"),
    "ReduceL2": _Way("Square", "Sum", _ROOT),
    "ReduceLogSum": _Way("Identity", "Sum", _LOG),
    "ReduceLogSumExp": _Way("Identity", "Sum", _NONE, _LOG_SUM_EXP),
    "ReduceMax": _Way("Identity", "Maximum"),
    "ReduceMean": _Way("Identity", "Sum", _MEAN),
    "ReduceMin": _Way("Identity", "Minimum"),
    "ReduceProd": _Way("Identity", "Product"),
    "ReduceSum": _Way("Identity", "Sum"),
    "ReduceSumSquare": _Way("Square", "Sum"),
}


def _reduce(site: Site, asked: Reduction) -> None:
    way, x, y = _WAYS[asked.name], asked.x, asked.y
    allowed = (*FLOATS, *INTEGERS, *(("bool",) if way.combine in ("Maximum", "Minimum") else ()))
    if x.dtype.name not in allowed or x.layout or y.layout:
        raise Unsupported(f"a reduction of {x}")
    if asked.is_whole and way.take == "Identity" and way.final in (_NONE, _MEAN) and not way.kind:
        site.alias(y, x)
        return
    Reducer(site, x, y, asked.groups, asked.each, _defines(way, x, y)).emit()


REDUCE.register("cupy", _reduce)


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


def _defines(way: _Way, x: Operand, y: Operand) -> dict[str, str | int]:
    low, high = _limits(x.dtype)
    # -0 is what leaves every number as it is, but the sum of nothing is +0.
    zero = "(-0.0)" if x.dtype.name in FLOATS and x.size else "0"
    first = {"Sum": zero, "Product": "1", "Maximum": low, "Minimum": high}[way.combine]
    return {
        "T": CTYPES[x.dtype.name],
        "Y": CTYPES[y.dtype.name],
        "A": _accumulator(x.dtype, way.kind),
        "KIND": way.kind,
        "TAKE": way.take,
        "COMBINE": way.combine,
        "INIT": first,
        "FINAL": way.final,
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


def _arg_extreme(site: Site, asked: Extremes) -> None:
    x, y, extents, greatest, last = asked
    emit_arg(site, x, y, extents, greatest=greatest, last=last)


EXTREMES.register("cupy", _arg_extreme)


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
