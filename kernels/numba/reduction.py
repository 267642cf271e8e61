"""Lowerings of reductions, arg-extremes and cumulative sums.

A reduction of any axes becomes one or more calls that reduce the middle of (outer, n, inner). Tolerances
against the reference: sums, means and norms 2e-6 of the sum of magnitudes for float32, 1e-14 for
float64; extremes, integers and scans are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from onnxref.lowering import Argument, Operand, Site, Unsupported, lower
from onnxref.native import NativeFunction, native

_CODE = "onnxref.kernels.numba.code.reduction"
_SPAN = 256  # columns that a unit of the column kernels has
_FLOATS = ("float32", "float64", "float16", "bfloat16")
_INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
# A long reduction to few elements is cut, for threads and for digits: elements, or rows, in a part.
_ROW_PART, _COLUMN_PART, _FEW, _MANY = 16384, 1024, 16, 1 << 17


def _function(template: str, *parameters: object) -> NativeFunction:
    return native(_CODE, template, *parameters)


class _Reduction(NamedTuple):
    first: str  # how elements are taken in
    final: str  # what is made of the accumulator in the end
    axes_attribute: tuple[int, ...]  # schema versions whose axes are an attribute
    axes_input: tuple[int, ...]  # schema versions whose axes are an input


_REDUCTIONS = {
    "ReduceL1": _Reduction("abs", "", (1, 11, 13), (18,)),
    "ReduceL2": _Reduction("square", "root", (1, 11, 13), (18,)),
    "ReduceLogSum": _Reduction("sum", "log", (1, 11, 13), (18, 28)),
    "ReduceLogSumExp": _Reduction("log_sum_exp", "", (1, 11, 13), (18, 28)),
    "ReduceMax": _Reduction("max", "", (1, 11, 12, 13), (18, 20)),
    "ReduceMean": _Reduction("sum", "mean", (1, 11, 13), (18,)),
    "ReduceMin": _Reduction("min", "", (1, 11, 12, 13), (18, 20)),
    "ReduceProd": _Reduction("prod", "", (1, 11, 13), (18,)),
    "ReduceSum": _Reduction("sum", "", (1, 11), (13,)),
    "ReduceSumSquare": _Reduction("square", "", (1, 11, 13), (18,)),
}


def _register(name: str, reduction: _Reduction) -> None:
    @lower(name, since=reduction.axes_attribute)
    def by_attribute(
        site: Site, data: Operand, *, axes: Sequence[int] | None = None, keepdims: int = 1
    ) -> None:
        """Reduce along `axes`, all of them by default (ONNX Reduce*-1, -11, -12, -13)."""
        _reduce(site, reduction, data, axes or range(data.ndim))

    @lower(name, since=reduction.axes_input)
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
    allowed = _FLOATS + _INTEGERS
    if reduction.first in ("max", "min"):
        allowed += ("bool",)
    if x.dtype.name not in allowed:
        raise Unsupported(f"elements are {x.dtype.name}")
    if any(not -x.ndim <= axis < x.ndim for axis in axes):
        raise Unsupported("an axis is out of range")
    reduced = {axis % x.ndim for axis in axes}
    groups = _grouped(x.shape, reduced) if x.size else [(y.size, False), (0, True)]
    count = math.prod(x.shape[axis] for axis in reduced)
    if reduction.first == "log_sum_exp":
        _log_sum_exp(site, x, y, groups)
    elif not any(is_reduced for _, is_reduced in groups) and _keeps_single(reduction):
        site.alias(y, x)
    else:
        _Passes(site, reduction, x, y, groups, count).emit()


def _keeps_single(reduction: _Reduction) -> bool:
    """Whether the reduction of one element is that element."""
    return reduction.first in ("sum", "max", "min", "prod") and reduction.final in ("", "mean")


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


def _accumulator(dtype: str) -> str:
    """Return the type of partial results; as in the code."""
    if dtype in ("float16", "bfloat16", "float32"):
        return "float32"
    if dtype == "float64":
        return dtype
    return "int64" if dtype.startswith("int") else "uint64"


class _Passes:
    """The calls of one reduction: each takes the innermost axis that is left to reduce."""

    def __init__(
        self,
        site: Site,
        reduction: _Reduction,
        x: Operand,
        y: Operand,
        groups: list[tuple[int, bool]],
        count: int,
    ) -> None:
        self.site, self.reduction, self.y, self.count = site, reduction, y, count
        self.groups = groups
        self.source: Argument = x
        self.dtype = x.dtype.name
        self.op = reduction.first

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
        goal, final = (self.y.dtype.name, self.reduction.final) if is_last else (wide, "")
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


@lower("ArgMax", since=(1, 11, 12, 13))
def arg_max(
    site: Site, data: Operand, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
) -> None:
    """ONNX ArgMax-13, exact; versions 1 and 11 have no select_last_index."""
    _arg_extreme(site, data, axis, True, bool(select_last_index))


@lower("ArgMin", since=(1, 11, 12, 13))
def arg_min(
    site: Site, data: Operand, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
) -> None:
    """ONNX ArgMin-13, exact; versions 1 and 11 have no select_last_index."""
    _arg_extreme(site, data, axis, False, bool(select_last_index))


def _arg_extreme(site: Site, x: Operand, axis: int, greatest: bool, last: bool) -> None:
    y, dtype = site.outputs[0], x.dtype.name
    if y is None or dtype not in _FLOATS + _INTEGERS:
        raise Unsupported(f"elements are {dtype}")
    if not -x.ndim <= axis < x.ndim or x.shape[axis] == 0 or x.shape[axis] >= 2**31:
        raise Unsupported("the axis is out of range, empty or too long")
    outer, n, inner = _around(x, axis)
    if inner == 1:
        function = _function("arg_rows", dtype, greatest, last)
        site.call(function, x, y, n, units=outer, work=x.size / 2 + 10 * outer)
    else:
        function = _function("arg_columns", dtype, greatest, last)
        scratch = site.scratch(_SPAN * (np.dtype(_accumulator(dtype)).itemsize + 4), per_thread=True)
        units = outer * -(-inner // _SPAN)
        site.call(function, x, y, n, inner, scratch, scratch.nbytes, units=units, work=x.size / 2)


def _around(x: Operand, axis: int) -> tuple[int, int, int]:
    """Return how many elements lie before, along and behind an axis."""
    axis %= x.ndim
    return math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])


# --- scans ---------------------------------------------------------------------------------------


@lower("CumSum", since=(11, 14))
def cum_sum(site: Site, x: Operand, axis: Operand, *, exclusive: int = 0, reverse: int = 0) -> None:
    """ONNX CumSum-14, exact: in the order of the reference."""
    _scan(site, "sum", x, axis, exclusive, reverse)


@lower("CumProd", since=26)
def cum_prod(site: Site, x: Operand, axis: Operand, *, exclusive: int = 0, reverse: int = 0) -> None:
    """ONNX CumProd-26, exact: in the order of the reference."""
    _scan(site, "prod", x, axis, exclusive, reverse)


def _scan(site: Site, op: str, x: Operand, axis: Operand, exclusive: int, reverse: int) -> None:
    y, dtype = site.outputs[0], x.dtype.name
    if y is None or dtype not in _FLOATS + _INTEGERS:
        raise Unsupported(f"elements are {dtype}")
    if axis.constant is None or axis.size != 1:
        raise Unsupported("the axis is not constant")
    along = int(axis.constant.reshape(-1)[0])
    if not -x.ndim <= along < x.ndim:
        raise Unsupported("the axis is out of range")
    if x.size == 0:
        return
    outer, n, inner = _around(x, along)
    scratch = site.scratch(_SPAN * np.dtype(_accumulator(dtype)).itemsize, per_thread=True)
    site.may_overwrite(y, x)
    site.call(
        _function("scan", op, dtype),
        *(x, y, n, inner, scratch, scratch.nbytes, int(bool(exclusive)), int(bool(reverse))),
        units=outer * -(-inner // _SPAN),
        work=float(x.size),
    )
