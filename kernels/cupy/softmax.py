"""Softmax, LogSoftmax and Hardmax: rows in registers, read and written once, where a block can hold them.

Computed in float32 (float64 for float64) and rounded once; tolerance 4 units in the last place of the type,
relative to the largest of the row (LogSoftmax: to the largest logarithm). Hardmax is exact.
"""

from __future__ import annotations

import math

from onnxref.gpu import CTYPES, cuda_kernel
from onnxref.lowering import Operand, Site, Unsupported, lower

from ._rows import BUSY, FLOATS, compute_type, power_above, rows_in_registers, vector_width
from .reduction import emit_arg

_CODE = "onnxref.kernels.cupy.code"
_FILE = "softmax.cu"


@lower("Softmax", since=13, backend="cupy")
def softmax(site: Site, x: Operand, *, axis: int = -1) -> None:
    """exp(x) / sum exp(x) along an axis (ONNX Softmax-13)."""
    _emit(site, x, *_one_axis(x, axis), is_log=False)


@lower("LogSoftmax", since=13, backend="cupy")
def log_softmax(site: Site, x: Operand, *, axis: int = -1) -> None:
    """x - log sum exp(x) along an axis (ONNX LogSoftmax-13)."""
    _emit(site, x, *_one_axis(x, axis), is_log=True)


@lower("Hardmax", since=13, backend="cupy")
def hardmax(site: Site, x: Operand, *, axis: int = -1) -> None:
    """1 at the first of the largest along an axis, 0 elsewhere (ONNX Hardmax-13)."""
    _hardmax(site, x, *_one_axis(x, axis))


@lower("Softmax", since=(1, 11), backend="cupy")
def softmax_of_matrix(site: Site, x: Operand, *, axis: int = 1) -> None:
    """Softmax over all axes from one on, as a matrix (ONNX Softmax-11)."""
    _emit(site, x, _axis(x, axis), x.ndim, is_log=False)


@lower("LogSoftmax", since=(1, 11), backend="cupy")
def log_softmax_of_matrix(site: Site, x: Operand, *, axis: int = 1) -> None:
    """LogSoftmax over all axes from one on, as a matrix (ONNX LogSoftmax-11)."""
    _emit(site, x, _axis(x, axis), x.ndim, is_log=True)


@lower("Hardmax", since=(1, 11), backend="cupy")
def hardmax_of_matrix(site: Site, x: Operand, *, axis: int = 1) -> None:
    """Hardmax over all axes from one on, as a matrix (ONNX Hardmax-11)."""
    _hardmax(site, x, _axis(x, axis), x.ndim)


def _axis(x: Operand, axis: int) -> int:
    if not -x.ndim <= axis < x.ndim:
        raise Unsupported("the axis is out of range")
    return axis % x.ndim


def _one_axis(x: Operand, axis: int) -> tuple[int, int]:
    return _axis(x, axis), _axis(x, axis) + 1


def _output(site: Site, x: Operand) -> Operand:
    (y,) = site.outputs
    if y is None:
        raise Unsupported("nothing wants its output")
    if x.dtype.name not in FLOATS or x.layout or y.layout:
        raise Unsupported(f"softmax of {x}")
    return y


def _emit(site: Site, x: Operand, begin: int, end: int, *, is_log: bool) -> None:
    """Emit softmax over the axes `begin` to `end`, seen as one."""
    y = _output(site, x)
    outer, n, inner = (math.prod(x.shape[a:b]) for a, b in ((0, begin), (begin, end), (end, x.ndim)))
    if x.size == 0:
        return
    if max(n, inner) >= 2**31 - 2**16:
        raise Unsupported("an axis is too long")
    site.may_overwrite(y, x)
    if inner == 1:
        _rows(site, x, y, outer, n, is_log)
    else:
        _columns(site, x, y, (outer, n, inner), is_log)


def _rows(site: Site, x: Operand, y: Operand, rows: int, n: int, is_log: bool) -> None:
    vec = vector_width(x.dtype.itemsize, n)
    kind = {"T": CTYPES[x.dtype.name], "IS_LOG": int(is_log)}
    wide = compute_type(x.dtype)
    dealt = rows_in_registers(rows, n, vec, wide, site.precision == "strict")
    if dealt is not None:
        site.launch(
            cuda_kernel(_CODE, _FILE, "softmax_rows", **kind, **dealt.defines),
            *(x, y, rows, n),
            grid=dealt.grid(rows),
            block=(dealt.threads, 1, 1),
        )
        return
    # Parts of eight accesses a thread.
    length = 8 * 512 * vec
    parts = -(-n // length)
    partial = site.scratch(rows * parts * 2 * (8 if wide == "float64" else 4))
    defines = {**kind, "VEC": vec, "GROUP": 0, "ITEMS": 1, "BOUND": 512}
    grid, block = (rows * parts, 1, 1), (512, 1, 1)
    site.launch(
        cuda_kernel(_CODE, _FILE, "softmax_parts", **defines),
        *(x, partial, n, parts, length),
        grid=grid,
        block=block,
    )
    site.launch(
        cuda_kernel(_CODE, _FILE, "softmax_apply", **defines),
        *(x, y, partial, n, parts, length),
        grid=grid,
        block=block,
    )


def _columns(site: Site, x: Operand, y: Operand, extents: tuple[int, int, int], is_log: bool) -> None:
    outer, n, inner = extents
    # A thread keeps a maximum and a sum for each of its columns.
    vec = min(4, vector_width(x.dtype.itemsize, inner))
    columns = (1 if site.precision == "strict" else outer) * (inner // vec)
    along = min(32, max(1, n // 2), -(-BUSY // columns))
    along = power_above(along + 1) // 2
    block = (256 // along, along, 1)
    wide = 8 if compute_type(x.dtype) == "float64" else 4
    kernel = cuda_kernel(
        _CODE,
        _FILE,
        "softmax_columns",
        T=CTYPES[x.dtype.name],
        IS_LOG=int(is_log),
        VEC=vec,
        GROUP=0,
        ITEMS=1,
        BOUND=256,
    )
    grid = (-(-outer * (inner // vec) // block[0]), 1, 1)
    site.launch(kernel, x, y, outer, n, inner, grid=grid, block=block, shared=256 * vec * 2 * wide)


def _hardmax(site: Site, x: Operand, begin: int, end: int) -> None:
    y = _output(site, x)
    outer, n, inner = (math.prod(x.shape[a:b]) for a, b in ((0, begin), (begin, end), (end, x.ndim)))
    if x.size == 0:
        return
    found = site.scratch(outer * inner * 8)
    emit_arg(site, x, found, (outer, n, inner), greatest=True, last=False)
    vec = vector_width(x.dtype.itemsize, n if inner == 1 else inner)
    kernel = cuda_kernel(
        _CODE, _FILE, "hardmax", T=CTYPES[x.dtype.name], IS_LOG=0, VEC=vec, GROUP=0, ITEMS=1, BOUND=256
    )
    site.launch(kernel, found, y, x.size, n, inner, grid=(-(-x.size // (256 * vec)), 1, 1))
