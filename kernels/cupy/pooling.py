"""Pools on the GPU: MaxPool with and without indices, AveragePool, LpPool, whole images, MaxUnpool.

Maxima, indices and MaxUnpool are exact. Sums of n elements are within n units in the last place of float32
(float64 for float64) of the sum of magnitudes, norms likewise, beside one rounding to the type. Tensors lie
plain, or with the channels last; whole images are reductions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from onnxref.errors import KernelError
from onnxref.gpu import CTYPES, cuda_kernel, grid_for
from onnxref.lowering import NO_PAD, BlockedUse, Op, Operand, Site, Unsupported, find_lowering, lower
from onnxref.registry import INTERNAL

from ..common.windows import pool_windows, with_leading
from ..numpy._windows import Windows, per_axis
from . import reduction  # noqa: F401 - registers what whole images are pooled by
from ._conv import CODE, extents, is_last
from ._rows import FLOATS, vector_width
from ._values import fault_of
from ._views import View, emit_view
from .movement import index_type, pitch_of

_BYTES = ("int8", "uint8")
_MAX, _MEAN, _L1, _L2, _LP = range(5)  # KIND of pooling.cu
_WHOLE = {_MAX: "ReduceMax", _MEAN: "ReduceMean", _L1: "ReduceL1", _L2: "ReduceL2"}


def blocked_pool(op: Op, lanes: int) -> BlockedUse | None:
    """Pools with one output go along with the channels last."""
    x = op.inputs[0]
    if x is None or not 3 <= x.ndim <= 5 or x.dtype.name not in (*FLOATS, *_BYTES) or x.size == 0:
        return None
    if any(y is not None for y in op.outputs[1:]):
        return None
    # Whole images are reductions, which see no channels.
    window = tuple(op.attributes.get("kernel_shape") or x.shape[2:])
    is_whole = "Global" in op.op_type or window == x.shape[2:]
    return BlockedUse({0: NO_PAD}, pitched=not is_whole)


def _pool(
    site: Site,
    x: Operand,
    windows: Windows,
    kind: int,
    *,
    include_pad: bool = False,
    column_major: bool = False,
    p: float = 0.0,
) -> None:
    y, *others = site.outputs
    places = others[0] if others else None
    allowed = (*FLOATS, *_BYTES) if kind == _MAX else FLOATS
    if y is None and places is None:
        raise Unsupported("nothing wants its outputs")
    if x.dtype.name not in allowed or (y is not None and y.dtype != x.dtype):
        raise Unsupported(f"pool of {x.dtype.name}")
    like = y if y is not None else places
    assert like is not None
    if any(is_last(t) != is_last(x) for t in (y, places) if t is not None):
        raise Unsupported("tensors that lie differently")
    if like.shape != (*x.shape[:2], *windows.out):
        raise Unsupported(f"shape {like.shape} is not that of the windows")
    if like.size == 0:
        return
    reach = (windows.padded, windows.extent, windows.strides)
    if any(sum(extents) >= 2**30 for extents in zip(*reach, strict=True)):
        raise Unsupported("windows that reach too far")
    if places is None and y is not None and kind in _WHOLE and _is_whole(windows):
        _whole(site, x, y, kind)
        return
    last, size = is_last(x), x.dtype.itemsize
    channels = x.shape[1] if last else 1
    vec = math.gcd(8, vector_width(size, channels)) if places is None else 1
    lowest = "(-INFINITY)" if x.dtype.name in FLOATS else str(np.iinfo(x.dtype).min)
    goal = y if y is not None else site.scratch(like.size * size)
    site.launch(
        cuda_kernel(
            *(CODE, "pooling.cu", "pool"),
            T=CTYPES[x.dtype.name],
            KIND=kind,
            LOWEST=lowest if kind == _MAX else 0,
            VEC=vec,
            LAST=int(last),
            PLACES=int(places is not None),
            INDEX=index_type(like.size),
        ),
        *(
            x,
            goal,
            places or 0,
            like.size // vec,
            channels,
            *(pitch_of(x) if last else 1, pitch_of(like) if last else 1),
            *extents(windows),
            with_leading(windows.ends, 3, 0),
        ),
        *(int(include_pad), int(column_major), np.float64(p)),
        grid=grid_for(like.size // vec),
    )


def _is_whole(windows: Windows) -> bool:
    """Whether there is one window, which is the image."""
    plain = windows.kernel == windows.size and set(windows.dilations) == {1}
    return plain and math.prod(windows.out) == 1 and not any(windows.begins)


def _whole(site: Site, x: Operand, y: Operand, kind: int) -> None:
    """Emit a reduction of whole images."""
    n, channels, pixels = *x.shape[:2], math.prod(x.shape[2:])
    last = is_last(x)
    if last != is_last(y) and 1 not in (channels, math.prod(y.shape[2:])):
        raise Unsupported("tensors that lie differently")
    shape, axis = ((n, pixels, channels), 1) if last else ((n, channels, pixels), 2)
    found = find_lowering("cupy", "", _WHOLE[kind], 13)
    assert found is not None
    goal = View(y, tuple(1 if i == axis else extent for i, extent in enumerate(shape)), y.dtype)
    emit_view(site, found.emit, (View(x, shape, x.dtype),), goal, axes=(axis,))


# Windows --------------------------------------------------------------------------------------------


@lower("MaxPool", since=(1, 8, 10, 11, 12, 22), backend="cupy", blocked=blocked_pool)
@lower("QuantizedMaxPool", since=1, domain=INTERNAL, backend="cupy", blocked=blocked_pool)
def max_pool(
    site: Site,
    x: Operand,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> None:
    """Largest of each window and where it is (ONNX MaxPool-1, -8, -10, -11, -12, -22)."""
    if storage_order not in (0, 1):
        raise Unsupported(f"storage_order {storage_order}")
    windows = pool_windows(x, 3, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    _pool(site, x, windows, _MAX, column_major=bool(storage_order))


@lower("AveragePool", since=(1, 7, 10, 11, 19, 22), backend="cupy", blocked=blocked_pool)
def average_pool(
    site: Site,
    x: Operand,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> None:
    """Mean of each window (ONNX AveragePool-1, -7, -10, -11, -19, -22)."""
    windows = pool_windows(x, 3, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    _pool(site, x, windows, _MEAN, include_pad=bool(count_include_pad))


def _norm(p: float) -> int:
    if not p > 0:
        raise Unsupported(f"norms with p = {p}")
    return _L1 if p == 1 else _L2 if p == 2 else _LP


@lower("LpPool", since=(1, 2, 11, 18, 22), backend="cupy", blocked=blocked_pool)
def lp_pool(
    site: Site,
    x: Operand,
    *,
    kernel_shape: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    p: float = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> None:
    """p-norm of each window (ONNX LpPool-1, -2, -11, -18, -22)."""
    if kernel_shape is None:
        raise Unsupported("no kernel_shape")
    windows = pool_windows(x, 3, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    _pool(site, x, windows, _norm(p), p=float(p))


# Whole images ---------------------------------------------------------------------------------------


def _global(kind: int) -> Callable[[Site, Operand], None]:
    def emit(site: Site, x: Operand) -> None:
        """Pool whole images (ONNX GlobalAveragePool-1, GlobalMaxPool-1)."""
        (y,) = site.outputs
        if x.dtype.name not in FLOATS or x.ndim < 2 or y is None:
            raise Unsupported(f"global pool of {x}")
        if y.size:
            _whole(site, x, y, kind)

    return emit


lower("GlobalAveragePool", since=(1, 22), backend="cupy", blocked=blocked_pool)(_global(_MEAN))
lower("GlobalMaxPool", since=(1, 22), backend="cupy", blocked=blocked_pool)(_global(_MAX))


@lower("GlobalLpPool", since=(1, 2, 22), backend="cupy", blocked=blocked_pool)
def global_lp_pool(site: Site, x: Operand, *, p: float = 2) -> None:
    """p-norm of whole images (ONNX GlobalLpPool-1, -2, -22)."""
    kind = _norm(p)
    if kind != _LP:
        _global(kind)(site, x)
    else:
        if x.size == 0:
            raise Unsupported("windows over nothing")
        _pool(site, x, pool_windows(x, 3, x.shape[2:]), kind, p=float(p))


# MaxUnpool ------------------------------------------------------------------------------------------


@lower("MaxUnpool", since=(9, 11, 22), backend="cupy")
def max_unpool(
    site: Site,
    x: Operand,
    i: Operand,
    output_shape: Operand | None = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> None:
    """Put elements at their indices in a tensor of zeros (ONNX MaxUnpool-9, -11, -22)."""
    (y,) = site.outputs
    if y is None or not 3 <= x.ndim <= 5 or x.layout or i.layout or y.layout:
        raise Unsupported(f"unpooling of {x}")
    if i.shape != x.shape or i.dtype != np.int64 or y.shape[:2] != x.shape[:2] or y.dtype != x.dtype:
        raise Unsupported("indices or an output that do not fit")
    rank = x.ndim - 2
    try:
        kernel, step = per_axis(kernel_shape, rank, "kernel_shape"), per_axis(strides, rank, "strides")
        cut = per_axis(pads if output_shape is None else None, 2 * rank, "pads", default=0, low=0)
    except KernelError as error:
        raise Unsupported(str(error)) from error
    inner = [
        (extent - 1) * step[axis] - cut[axis] - cut[rank + axis] + kernel[axis]
        for axis, extent in enumerate(x.shape[2:])
    ]
    total = math.prod((*x.shape[:2], *inner))
    if (
        min(inner) < 0
        or max(total, x.size) >= 2**31
        or (output_shape is None and y.shape[2:] != tuple(inner))
    ):
        raise Unsupported(f"unpooling {x} to {inner}")
    owners = site.scratch(4 * max(1, total))
    file = "unpool.cu"
    kernels = {
        entry: cuda_kernel(CODE, file, entry, T=f"uint{8 * x.dtype.itemsize}_t")
        for entry in ("unpool_clear", "unpool_mark", "unpool_take")
    }
    if total:
        site.launch(kernels["unpool_clear"], owners, total, grid=grid_for(total))
    if x.size:
        fault = fault_of(i, 0, total - 1)
        site.launch(kernels["unpool_mark"], i, owners, x.size, total, fault, grid=grid_for(x.size))
    if y.size:
        site.launch(
            kernels["unpool_take"],
            *(x, owners, y, y.size, with_leading(inner, 3, 1), with_leading(y.shape[2:], 3, 1)),
            grid=grid_for(y.size),
        )
