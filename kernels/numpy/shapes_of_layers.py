"""Shape rules of layers: products, convolutions, pools, recurrent layers, attention, quantisation, classical
models. See `shapes.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onnxref.dtypes import Array, from_numpy, to_numpy
from onnxref.errors import KernelError
from onnxref.registry import ML, Context, find, ghost, shape_rule

from . import ml_encoders, ml_linear, ml_trees  # noqa: F401 - whose kernels serve as rules
from ._checks import (
    check_choice,
    check_shape,
    element_type,
    float_dtype,
    one_element,
)
from ._ghosts import check_broadcast, like, numeric
from ._interpolation import Filter, plan_axes, resized_shape
from ._windows import slide, spatial_shape
from .attention import check_heads, split_heads
from .convolution import conv_windows, transposed_windows
from .linalg import gemm_operands, product_shape
from .quantization import REAL, check_per_tensor, check_zero_point, output_element, spread
from .recurrent import Layer, bind_activations, initial_state
from .resize import POSITIONS_11, POSITIONS_13, POSITIONS_19, check_filter

_INT64 = np.dtype(np.int64)


# --- products, convolutions, pools ---------------------------------------------------------------


@shape_rule("MatMul", since=(1, 9, 13))
def _matmul(a: Array, b: Array) -> Array:
    return like(a, product_shape(a.shape, b.shape))


@shape_rule("Gemm", since=(7, 9, 11, 13))
def _gemm(
    a: Array, b: Array, c: Array | None = None, *, transA: int = 0, transB: int = 0, **_attributes: Any
) -> Array:
    a, b = gemm_operands(a, b, transA, transB)
    shape = product_shape(a.shape, b.shape)
    if c is not None:
        check_broadcast(c, shape, "C")
    return like(a, shape)


@shape_rule("Conv", since=(1, 11, 22))
def _conv(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
    ctx: Context | None = None,
) -> Array:
    del ctx
    windows = conv_windows(x, w, group, kernel_shape, strides, dilations, pads, auto_pad)
    if b is not None:
        check_shape(b, w.shape[:1], "B")
    return like(x, (x.shape[0], w.shape[0], *windows.out))


for _version in (1, 11, 22):

    @shape_rule("ConvTranspose", since=_version)
    def _conv_transpose(
        x: Array, w: Array, b: Array | None = None, *, version: int = _version, **attributes: Any
    ) -> Array:
        attributes.pop("ctx", None)
        windows = transposed_windows(x, w, version=version, **attributes)
        channels = w.shape[1] * attributes.get("group", 1)
        if b is not None:
            check_shape(b, (channels,), "B")
        return like(x, (x.shape[0], channels, *windows.size))


@shape_rule("AveragePool", since=(1, 7, 10, 11, 19, 22))
@shape_rule("MaxPool", since=(1, 8, 10, 11, 12, 22))
def _pool(
    x: Array,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
    storage_order: int = 0,
    **_attributes: Any,
) -> tuple[Array, Array]:
    check_choice(storage_order, (0, 1), "storage_order")
    windows = slide(spatial_shape(x), kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    shape = (*x.shape[:2], *windows.out)
    return like(x, shape), like(x, shape, _INT64)


@shape_rule("GlobalAveragePool", since=(1, 22))
@shape_rule("GlobalMaxPool", since=(1, 22))
def _global_pool(x: Array) -> Array:
    if x.ndim < 2:
        raise KernelError(f"rank of the input must be at least 2 (got shape {x.shape})")
    return like(x, (*x.shape[:2], *(1,) * (x.ndim - 2)))


def _resize(since: int, positions: tuple[str, ...]) -> None:
    """Register the rule of a version that knows these coordinate transformations."""

    @shape_rule("Resize", since=since)
    def rule(
        x: Array,
        roi: Array | None = None,
        scales: Array | None = None,
        sizes: Array | None = None,
        *,
        mode: str = "nearest",
        coordinate_transformation_mode: str = "half_pixel",
        nearest_mode: str = "round_prefer_floor",
        antialias: int = 0,
        axes: tuple[int, ...] | None = None,
        keep_aspect_ratio_policy: str = "stretch",
        **_attributes: Any,
    ) -> Array:
        cropping = coordinate_transformation_mode == "tf_crop_and_resize"
        plan = plan_axes(x, roi, scales, sizes, axes=axes, policy=keep_aspect_ratio_policy, cropping=cropping)
        how = Filter(mode, coordinate_transformation_mode, nearest_mode, antialias=bool(antialias))
        check_filter(how, positions, plan)
        return like(x, resized_shape(x, plan))


for _version, _positions in ((11, POSITIONS_11), (13, POSITIONS_13), (18, POSITIONS_13), (19, POSITIONS_19)):
    _resize(_version, _positions)


# --- recurrent layers, attention -----------------------------------------------------------------


def _recurrent(op_type: str, since: tuple[int, ...], gates: int, functions: int) -> None:
    """Register the rule of a layer with so many gates and activations."""

    @shape_rule(op_type, since=since)
    def rule(
        x: Array,
        w: Array,
        r: Array,
        b: Array | None = None,
        sequence_lens: Array | None = None,
        initial_h: Array | None = None,
        initial_c: Array | None = None,
        p: Array | None = None,
        *,
        direction: str = "forward",
        hidden_size: int | None = None,
        layout: int = 0,
        activations: tuple[str, ...] | None = None,
        **_attributes: Any,
    ) -> tuple[Array, ...]:
        layer = Layer.of(x, w, r, b, sequence_lens, initial_h, gates, direction, hidden_size, layout)
        count, batch, hidden = layer.h.shape
        if activations is not None:
            bind_activations(activations, None, None, None, functions * count)
        if initial_c is not None:
            initial_state(initial_c, layer.h.shape, bool(layout), x, "initial_c")
        if p is not None:
            check_shape(p, (count, 3 * hidden), "P")
        steps = layer.x.shape[0]
        state = like(x, (batch, count, hidden) if layout else (count, batch, hidden))
        all_steps = (batch, steps, count, hidden) if layout else (steps, count, batch, hidden)
        return like(x, all_steps), state, state


_recurrent("RNN", (7, 14, 22), 1, 1)
_recurrent("GRU", (7, 14, 22), 3, 2)
_recurrent("LSTM", (7, 14, 22), 4, 3)


@shape_rule("Attention", since=(23, 24, 25))
def _attention(
    q: Array,
    k: Array,
    v: Array,
    attn_mask: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    nonpad_kv_seqlen: Array | None = None,
    *,
    ctx: Context,
    q_num_heads: int | None = None,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    right_window_size: int = -1,
    qk_matmul_output_mode: int = 0,
    softmax_precision: int | None = None,
    **_attributes: Any,
) -> tuple[Array, Array, Array]:
    check_choice(qk_matmul_output_mode, range(4), "qk_matmul_output_mode")
    if softmax_precision is not None:
        float_dtype(softmax_precision, "softmax_precision")
    if min(left_window_size, right_window_size) < -1:
        raise KernelError("windows must be at least -1")
    if not q.ndim == k.ndim == v.ndim or nonpad_kv_seqlen is not None or any(ctx.wanted[3:]):
        raise KernelError("Q, K and V must have the same rank; lengths and scores are left to the kernel")
    queries = split_heads(q, q_num_heads, "Q")
    keys = _behind(split_heads(k, kv_num_heads, "K"), past_key)
    values = _behind(split_heads(v, kv_num_heads, "V"), past_value)
    if (past_key is None) != (past_value is None):
        raise KernelError("past_key and past_value must be given together")
    check_heads(queries, keys, values)
    batch, heads, rows, _ = queries.shape
    if attn_mask is not None:
        check_broadcast(attn_mask, (batch, heads, rows, keys.shape[2]), "attn_mask")
    size = values.shape[3]
    shape = (batch, heads, rows, size) if q.ndim == 4 else (batch, rows, heads * size)
    return like(q, shape), keys, values


def _behind(x: Array, past: Array | None) -> Array:
    """Return a ghost of `x` (B, H, S, D) behind its cache."""
    if past is None:
        return like(x)
    if past.ndim != 4 or past.shape[:2] != x.shape[:2] or past.shape[3] != x.shape[3]:
        raise KernelError(f"a cache must have shape (B, heads, past, size) like {x.shape} (got {past.shape})")
    return like(x, (*x.shape[:2], past.shape[2] + x.shape[2], x.shape[3]))


# --- quantisation --------------------------------------------------------------------------------


@shape_rule("QuantizeLinear", since=(13, 19, 21, 23, 24, 25, 28))
def _quantize(
    x: Array,
    y_scale: Array,
    y_zero_point: Array | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    **_attributes: Any,
) -> Array:
    element = output_element(y_zero_point, output_dtype)
    if precision:
        float_dtype(precision, "precision")
    _check_scales(x, y_scale, y_zero_point, axis, block_size)
    return like(x, dtype=to_numpy(element))


@shape_rule("DequantizeLinear", since=(13, 19, 21, 23, 24, 25, 28))
def _dequantize(
    x: Array,
    x_scale: Array,
    x_zero_point: Array | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Array:
    if x_zero_point is not None and x_zero_point.dtype != x.dtype:
        raise KernelError(f"zero_point must have the type {x.dtype} of x (got {x_zero_point.dtype})")
    _check_scales(x, x_scale, x_zero_point, axis, block_size)
    element = element_type(output_dtype or from_numpy(x_scale.dtype), "output_dtype", REAL)
    return like(x, dtype=to_numpy(element))


def _check_scales(x: Array, scale: Array, zero_point: Array | None, axis: int, block_size: int) -> None:
    if scale.ndim > 1:
        raise KernelError("scales of blocks are left to the kernel")
    check_zero_point(zero_point, scale)
    spread(scale, "scale", x.shape, axis, block_size)
    if zero_point is not None:
        spread(zero_point, "zero_point", x.shape, axis, block_size)


@shape_rule("QuantizeLinear", since=10)
def _quantize_per_tensor(x: Array, y_scale: Array, y_zero_point: Array | None = None) -> Array:
    check_per_tensor(y_scale, y_zero_point)
    return _quantize(x, y_scale, y_zero_point)


@shape_rule("DequantizeLinear", since=10)
def _dequantize_per_tensor(x: Array, x_scale: Array, x_zero_point: Array | None = None) -> Array:
    check_per_tensor(x_scale, x_zero_point)
    return _dequantize(x, x_scale, x_zero_point)


@shape_rule("DynamicQuantizeLinear", since=11)
def _dynamic_quantize(x: Array) -> tuple[Array, Array, Array]:
    quantized = np.dtype(np.uint8)
    return like(x, dtype=quantized), like(x, ()), like(x, (), quantized)


@shape_rule("MatMulInteger", since=10)
def _matmul_integer(a: Array, b: Array, *zero_points: Array | None) -> Array:
    for value in zero_points:
        if value is not None:
            one_element(value, "zero_point")
    return like(a, product_shape(a.shape, b.shape), np.dtype(np.int32))


# --- classical models ----------------------------------------------------------------------------


def _by_rows(op_type: str, since: tuple[int, ...]) -> None:
    """Register a rule for an operator that maps each row of (N, F) by itself: the kernel on one row tells."""
    for version in since:
        kernel = find(ML, op_type, version).kernel

        @shape_rule(op_type, since=version, domain=ML)
        def rule(x: Array, *, kernel: Callable[..., Any] = kernel, **attributes: Any) -> Any:
            if x.ndim != 2 or not x.shape[0]:
                raise KernelError(f"X must have rows (got shape {x.shape})")
            made = kernel(like(x, (1, x.shape[1])), **attributes)
            if isinstance(made, tuple):
                return tuple(ghost((x.shape[0], *y.shape[1:]), numeric(y.dtype)) for y in made)
            return ghost((x.shape[0], *made.shape[1:]), numeric(made.dtype))


for _op_type, _since in {
    "LinearClassifier": (1,),
    "LinearRegressor": (1,),
    "Normalizer": (1,),
    "SVMClassifier": (1,),
    "SVMRegressor": (1,),
    "Scaler": (1,),
    "TreeEnsembleClassifier": (1, 3, 5),
    "TreeEnsembleRegressor": (1, 3, 5),
    "TreeEnsemble": (5,),
}.items():
    _by_rows(_op_type, _since)
