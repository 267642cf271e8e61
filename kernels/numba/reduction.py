"""Lowerings of reductions, arg-extremes and cumulative sums.

A reduction of any axes becomes one or more calls that reduce the middle of (outer, n, inner). Tolerances
against the reference: sums, means and norms 2e-6 of the sum of magnitudes for float32, 1e-14 for
float64; extremes, integers and scans are exact.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from onnxref.lowering import Argument, Operand, Site, Unsupported
from onnxref.native import NativeFunction, native

from ..common.reduction import EXTREMES, REDUCE, SCAN, Extremes, Reduction, Scan

_CODE = "onnxref.kernels.numba.code.reduction"
_SPAN = 256  # columns that a unit of the column kernels has
_FLOATS = ("float32", "float64", "float16", "bfloat16")
_INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
# A long reduction to few elements is cut, for threads and for digits: elements, or rows, in a part.
_ROW_PART, _COLUMN_PART, _FEW, _MANY = 16384, 1024, 16, 1 << 17


def _function(template: str, *parameters: object) -> NativeFunction:
    return native(_CODE, template, *parameters)


class _Way(NamedTuple):
    first: str  # how elements are taken in
    final: str  # what is made of the accumulator in the end


_WAYS = {
    "ReduceL1": _Way("abs", ""),
    "ReduceL2": _Way("square", "root"),
    "ReduceLogSum": _Way("sum", "log"),
    "ReduceLogSumExp": _Way("log_sum_exp", ""),
    "ReduceMax": _Way("max", ""),
    "ReduceMean": _Way("sum", "mean"),
    "ReduceMin": _Way("min", ""),
    "ReduceProd": _Way("prod", ""),
    "ReduceSum": _Way("sum", ""),
    "ReduceSumSquare": _Way("square", ""),
}


def _reduce(site: Site, asked: Reduction) -> None:
    way, x, y = _WAYS[asked.name], asked.x, asked.y
    allowed = _FLOATS + _INTEGERS
    if way.first in ("max", "min"):
        allowed += ("bool",)
    if x.dtype.name not in allowed:
        raise Unsupported(f"elements are {x.dtype.name}")
    if way.first == "log_sum_exp":
        _log_sum_exp(site, x, y, asked.groups)
    elif asked.is_whole and _keeps_single(way):
        site.alias(y, x)
    else:
        _Passes(site, way, asked).emit()


REDUCE.register("numba", _reduce)


def _keeps_single(way: _Way) -> bool:
    """Whether the reduction of one element is that element."""
    return way.first in ("sum", "max", "min", "prod") and way.final in ("", "mean")


def _accumulator(dtype: str) -> str:
    """Return the type of partial results; as in the code."""
    if dtype in ("float16", "bfloat16", "float32"):
        return "float32"
    if dtype == "float64":
        return dtype
    return "int64" if dtype.startswith("int") else "uint64"


class _Passes:
    """The calls of one reduction: each takes the innermost axis that is left to reduce."""

    def __init__(self, site: Site, way: _Way, asked: Reduction) -> None:
        self.site, self.way, self.y, self.count = site, way, asked.y, asked.each
        self.groups = asked.groups
        self.source: Argument = asked.x
        self.dtype = asked.x.dtype.name
        self.op = way.first

    def emit(self) -> None:
        while True:
            places = [i for i, (_, is_reduced) in enumerate(self.groups) if is_reduced]
            at = places[-1] if places else len(self.groups)
            n = self.groups[at][0] if places else 1
            outer = math.prod(size for size, _ in self.groups[:at])
            inner = math.prod(size for size, _ in self.groups[at + 1 :])
            part = _ROW_PART if inner == 1 else _COLUMN_PART
            units = outer * -(-inner // _SPAN)
            parts = -(-n // part) if units < _FEW and outer * n * inner >= _MANY else 1
            is_last = len(places) <= 1 and parts == 1
            self._call(outer, n, inner, parts, part if parts > 1 else n, is_last)
            if is_last:
                return
            left = [(parts, True)] if parts > 1 else []
            self.groups[at : at + 1] = left

    def _call(self, outer: int, n: int, inner: int, parts: int, length: int, is_last: bool) -> None:
        wide = _accumulator(self.dtype)
        goal, final = (self.y.dtype.name, self.way.final) if is_last else (wide, "")
        size = np.dtype(wide).itemsize
        made: Argument = self.y if is_last else self.site.scratch(outer * parts * inner * size)
        work = outer * n * inner * (0.25 if wide != "float64" else 0.5)
        kind = (self.op, self.dtype, goal, final)
        if inner == 1:
            arguments: tuple[Any, ...] = (self.source, made, n, parts, length, self.count)
            work = outer * parts * (4.0 + min(n, length) * (0.05 if wide == "float32" else 0.4))
            self.site.call(_function("rows", *kind), *arguments, units=outer * parts, work=work)
        else:
            scratch = self.site.scratch(_SPAN * size, per_thread=True)
            arguments = (self.source, made, n, inner, parts, length, self.count, scratch, scratch.nbytes)
            units = outer * parts * -(-inner // _SPAN)
            self.site.call(_function("columns", *kind), *arguments, units=units, work=work)
        self.source, self.dtype = made, wide
        if self.op in ("abs", "square"):
            self.op = "sum"


def _log_sum_exp(site: Site, x: Operand, y: Operand, groups: list[tuple[int, bool]]) -> None:
    """Within 5e-7 plus 2e-6 of the result: sums of exponentials are float32, their logarithm float64."""
    if x.dtype != np.float32:
        raise Unsupported(f"elements are {x.dtype.name}")
    if not any(is_reduced for _, is_reduced in groups):
        groups = [*groups, (1, True)]
    if [is_reduced for _, is_reduced in groups] not in ([True], [False, True]):
        raise Unsupported("it does not reduce just the last axes")
    rows = groups[0][0] if len(groups) == 2 else 1
    site.call(_function("log_sum_exp_rows"), x, y, groups[-1][0], units=rows, work=x.size / 2)


# --- arg-extremes --------------------------------------------------------------------------------


def _arg_extreme(site: Site, asked: Extremes) -> None:
    x, y, (outer, n, inner), greatest, last = asked
    dtype = x.dtype.name
    if dtype not in _FLOATS + _INTEGERS:
        raise Unsupported(f"elements are {dtype}")
    if n >= 2**31:
        raise Unsupported("the axis is too long")
    if inner == 1:
        function = _function("arg_rows", dtype, greatest, last)
        site.call(function, x, y, n, units=outer, work=x.size / 2 + 10 * outer)
    else:
        function = _function("arg_columns", dtype, greatest, last)
        scratch = site.scratch(_SPAN * (np.dtype(_accumulator(dtype)).itemsize + 4), per_thread=True)
        units = outer * -(-inner // _SPAN)
        site.call(function, x, y, n, inner, scratch, scratch.nbytes, units=units, work=x.size / 2)


EXTREMES.register("numba", _arg_extreme)


# --- scans ---------------------------------------------------------------------------------------


def _scan(site: Site, asked: Scan) -> None:
    """Emit a scan, exact: in the order of the reference."""
    x, y, (outer, n, inner) = asked.x, asked.y, asked.extents
    dtype = x.dtype.name
    if dtype not in _FLOATS + _INTEGERS:
        raise Unsupported(f"elements are {dtype}")
    if x.size == 0:
        return
    scratch = site.scratch(_SPAN * np.dtype(_accumulator(dtype)).itemsize, per_thread=True)
    site.may_overwrite(y, x)
    site.call(
        _function("scan", "prod" if asked.is_product else "sum", dtype),
        *(x, y, n, inner, scratch, scratch.nbytes, int(asked.exclusive), int(asked.reverse)),
        units=outer * -(-inner // _SPAN),
        work=float(x.size),
    )


SCAN.register("numba", _scan)
