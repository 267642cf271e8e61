"""Shape rules: what the outputs of operators are like, without computing them.

They use the checks of the kernels themselves wherever those look at shapes only. Operators that are missing
here are learned from a first run; a rule pays where models with inputs of many shapes spend their time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onnxref.dtypes import Array, to_numpy
from onnxref.errors import KernelError
from onnxref.registry import Context, find, shape_rule

from ._checks import (
    broadcast_shape,
    check_choice,
    check_shape,
    element_type,
    float_dtype,
    int_vector,
    normalize_axis,
    one_element,
    scalar_int,
)
from ._ghosts import check_broadcast, like, numeric
from .indexing import check_element_indices, gathered_nd_shape, gathered_shape
from .reduction import REDUCTIONS, reduced_axes
from .shape import PAD_MODES, expanded_shape, joined_shape, pad_widths, padded_shape, tiled_shape

_INT64 = np.dtype(np.int64)
_BOOL = np.dtype(bool)


# --- element by element --------------------------------------------------------------------------


def _same(*inputs: Array, **_attributes: Any) -> Array:
    return like(inputs[0])


def _truth(x: Array, **_attributes: Any) -> Array:
    return like(x, dtype=_BOOL)


def _broadcast(*inputs: Array, **_attributes: Any) -> Array:
    return like(inputs[0], broadcast_shape(*(x.shape for x in inputs)))


def _compared(*inputs: Array, **_attributes: Any) -> Array:
    return like(inputs[0], broadcast_shape(*(x.shape for x in inputs)), _BOOL)


_ELEMENTWISE: dict[Callable[..., Array], dict[str, tuple[int, ...]]] = {
    _same: {
        **dict.fromkeys(
            ("Abs", "Ceil", "Floor", "Neg", "Reciprocal", "Sqrt", "Exp", "Log", "Tanh"), (1, 6, 13)
        ),
        **dict.fromkeys(("Cos", "Sin", "Tan", "Atan"), (7, 22)),
        **dict.fromkeys(("Sign", "Erf"), (9, 13)),
        "Elu": (1, 6, 22),
        "HardSigmoid": (1, 6, 22),
        "HardSwish": (14, 22),
        "Identity": (1, 13, 14, 16, 19, 21, 23, 24, 25),
        "LeakyRelu": (1, 6, 16),
        "Mish": (18, 22),
        "Not": (1,),
        "Relu": (1, 6, 13, 14),
        "Round": (11, 22),
        "Sigmoid": (1, 6, 13),
        "Softplus": (1, 22),
        "Softsign": (1, 22),
        "Swish": (24,),
    },
    _truth: {"IsNaN": (9, 13, 20), "IsInf": (10, 20)},
    _broadcast: {
        **dict.fromkeys(("Add", "Sub", "Mul", "Div"), (7, 13, 14)),
        **dict.fromkeys(("BitwiseAnd", "BitwiseOr", "BitwiseXor"), (18,)),
        **dict.fromkeys(("Min", "Max"), (8, 12, 13)),
        **dict.fromkeys(("Sum", "Mean"), (8, 13)),
        "Pow": (7, 12, 13, 15),
    },
    _compared: {
        **dict.fromkeys(("And", "Or", "Xor"), (7,)),
        **dict.fromkeys(("Greater", "Less"), (7, 9, 13)),
        **dict.fromkeys(("GreaterOrEqual", "LessOrEqual"), (12, 16)),
        "Equal": (7, 11, 13, 19),
    },
}
for _rule, _operators in _ELEMENTWISE.items():
    for _op_type, _since in _operators.items():
        shape_rule(_op_type, since=_since)(_rule)


@shape_rule("Where", since=(9, 16))
def _where(condition: Array, x: Array, y: Array) -> Array:
    return like(x, broadcast_shape(condition.shape, x.shape, y.shape))


@shape_rule("PRelu", since=(7, 9, 16))
def _prelu(x: Array, slope: Array) -> Array:
    check_broadcast(slope, x.shape, "slope")
    return like(x)


@shape_rule("Clip", since=(11, 12, 13))
def _clip(input: Array, min: Array | None = None, max: Array | None = None) -> Array:
    for bound, name in ((min, "min"), (max, "max")):
        if bound is not None:
            one_element(bound, name)
    return like(input)


@shape_rule("Clip", since=6)
def _clip_6(input: Array, **_attributes: Any) -> Array:
    return like(input)


@shape_rule("Dropout", since=7)
def _dropout_7(data: Array, **_attributes: Any) -> tuple[Array, Array]:
    return like(data), like(data)


@shape_rule("Dropout", since=(10, 12, 13, 22))
def _dropout(data: Array, *_inputs: Array | None, **_attributes: Any) -> tuple[Array, Array]:
    return like(data), like(data, dtype=_BOOL)


@shape_rule("Gelu", since=20)
def _gelu(x: Array, *, approximate: str = "none") -> Array:
    check_choice(approximate, ("none", "tanh"), "approximate")
    return like(x)


@shape_rule("Cast", since=(6, 9, 13, 19, 21, 23, 24, 25, 28))
def _cast(input: Array, *, to: int, saturate: int = 1, round_mode: str = "up") -> Array:
    del saturate
    check_choice(round_mode, ("up", "down", "nearest"), "round_mode")
    return like(input, dtype=numeric(to_numpy(element_type(to, "to"))))


# --- the same elements elsewhere -----------------------------------------------------------------

# These kernels make views, of ghosts as of other tensors.
for _op_type, _since in {
    "DepthToSpace": (1, 11, 13, 28),
    "Flatten": (1, 9, 11, 13, 21, 23, 24, 25),
    "Reshape": (5, 13, 14, 19, 21, 23, 24, 25),
    "Slice": (10, 11, 13),
    "SpaceToDepth": (1, 13, 28),
    "Split": (2, 11, 13, 18),
    "Squeeze": (11, 13, 21, 23, 24, 25),
    "Transpose": (1, 13, 21, 23, 24, 25),
    "Unsqueeze": (11, 13, 21, 23, 24, 25),
}.items():
    for _version in _since:
        shape_rule(_op_type, since=_version)(find("", _op_type, _version).kernel)


def _resized(op_type: str, since: tuple[int, ...], shape_of: Callable[..., Any]) -> None:
    """Register a rule for an operator whose output has the first input's type, and a shape that is told."""

    @shape_rule(op_type, since=since)
    def rule(data: Array, *inputs: Array, **attributes: Any) -> Array:
        return like(data, tuple(shape_of(data, *inputs, **attributes)))


_resized("Expand", (8, 13), expanded_shape)
_resized("Tile", (6, 13), lambda data, repeats: tiled_shape(data, int_vector(repeats, "repeats")))
_resized("Gather", (11, 13), lambda data, indices, axis=0: gathered_shape(data, indices, axis))
_resized(
    "GatherND", (11, 12, 13), lambda data, indices, batch_dims=0: gathered_nd_shape(data, indices, batch_dims)
)


@shape_rule("GatherElements", since=(11, 13))
def _gather_elements(data: Array, indices: Array, *, axis: int = 0) -> Array:
    check_element_indices(data, indices, normalize_axis(axis, data.ndim))
    return like(data, indices.shape)


@shape_rule("Concat", since=(4, 11, 13))
def _concat(*inputs: Array, axis: int) -> Array:
    return like(inputs[0], joined_shape(inputs, axis))


def _pad(since: tuple[int, ...], modes: tuple[str, ...]) -> None:
    """Register the rule of versions that know these modes."""

    @shape_rule("Pad", since=since)
    def rule(
        data: Array,
        pads: Array,
        constant_value: Array | None = None,
        axes: Array | None = None,
        *,
        mode: str = "constant",
    ) -> Array:
        check_choice(mode, modes, "mode")
        if mode != "constant" and not data.size:
            raise KernelError("only a constant can pad an empty tensor")
        if constant_value is not None:
            one_element(constant_value, "constant_value")
        targets = None if axes is None else int_vector(axes, "axes")
        return like(data, tuple(padded_shape(data, pad_widths(data, int_vector(pads, "pads"), targets))))


_pad((11, 13, 18), PAD_MODES)
_pad((19, 21, 23, 24, 25), (*PAD_MODES, "wrap"))


# --- along axes ----------------------------------------------------------------------------------


@shape_rule("Softmax", since=13)
@shape_rule("LogSoftmax", since=13)
def _along_axis(input: Array, *, axis: int = -1) -> Array:
    normalize_axis(axis, input.ndim)
    return like(input)


@shape_rule("LpNormalization", since=(1, 22))
def _lp_norm(input: Array, *, axis: int = -1, p: int = 2) -> Array:
    check_choice(p, (1, 2), "p")
    return _along_axis(input, axis=axis)


@shape_rule("Softmax", since=(1, 11))
@shape_rule("LogSoftmax", since=(1, 11))
def _coerced(input: Array, *, axis: int = 1) -> Array:
    return _along_axis(input, axis=axis)


@shape_rule("CumSum", since=(11, 14))
def _cum_sum(x: Array, axis: Array, **_attributes: Any) -> Array:
    normalize_axis(scalar_int(axis, "axis"), x.ndim)
    return like(x)


def _without(data: Array, axes: tuple[int, ...], keepdims: int) -> tuple[int, ...]:
    if keepdims:
        return tuple(1 if i in axes else n for i, n in enumerate(data.shape))
    return tuple(n for i, n in enumerate(data.shape) if i not in axes)


def _reduce_by_attribute(data: Array, *, axes: tuple[int, ...] | None = None, keepdims: int = 1) -> Array:
    return like(data, _without(data, reduced_axes(data.ndim, axes or (), 0), keepdims))


def _reduce_by_input(
    data: Array, axes: Array | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Array:
    given = [] if axes is None else int_vector(axes, "axes")
    return like(data, _without(data, reduced_axes(data.ndim, given, noop_with_empty_axes), keepdims))


for _op_type, _reduction in REDUCTIONS.items():
    shape_rule(_op_type, since=_reduction.axes_attribute)(_reduce_by_attribute)
    shape_rule(_op_type, since=_reduction.axes_input)(_reduce_by_input)


@shape_rule("ArgMax", since=(1, 11, 12, 13))
@shape_rule("ArgMin", since=(1, 11, 12, 13))
def _arg_extreme(data: Array, *, axis: int = 0, keepdims: int = 1, **_attributes: Any) -> Array:
    at = normalize_axis(axis, data.ndim)
    if not data.shape[at]:
        raise KernelError(f"data must have elements along axis {at}")
    return like(data, _without(data, (at,), keepdims), _INT64)


@shape_rule("TopK", since=(10, 11, 24))
def _top_k(x: Array, k: Array, *, axis: int = -1, **_attributes: Any) -> tuple[Array, Array]:
    at, count = normalize_axis(axis, x.ndim), scalar_int(k, "k")
    if not 0 <= count <= x.shape[at]:
        raise KernelError(f"k must be in [0, {x.shape[at]}] (got {count})")
    shape = (*x.shape[:at], count, *x.shape[at + 1 :])
    return like(x, shape), like(x, shape, _INT64)


# --- normalisation -------------------------------------------------------------------------------


@shape_rule("BatchNormalization", since=(9, 14, 15))
def _batch_norm(x: Array, *parameters: Array, ctx: Context, training_mode: int = 0, **_: Any) -> tuple[Array]:
    if training_mode or ctx.n_outputs > 1 or x.ndim < 2:
        raise KernelError("only inference on channels is foreseen")
    for value in parameters:
        if value.size != x.shape[1]:
            raise KernelError(f"parameters must have {x.shape[1]} elements (got {value.size})")
    return (like(x),)


@shape_rule("LayerNormalization", since=17)
def _layer_norm(
    x: Array,
    scale: Array,
    b: Array | None = None,
    *,
    axis: int = -1,
    stash_type: int = 1,
    **_attributes: Any,
) -> tuple[Array, Array, Array]:
    at, stash = normalize_axis(axis, x.ndim), float_dtype(stash_type, "stash_type")
    check_broadcast(scale, x.shape, "Scale")
    if b is not None:
        check_broadcast(b, x.shape, "B")
    moments = like(x, (*x.shape[:at], *(1,) * (x.ndim - at)), stash)
    return like(x), moments, moments


@shape_rule("RMSNormalization", since=23)
def _rms_norm(x: Array, scale: Array, *, axis: int = -1, stash_type: int = 1, **_attributes: Any) -> Array:
    normalize_axis(axis, x.ndim)
    float_dtype(stash_type, "stash_type")
    check_broadcast(scale, x.shape, "scale")
    return like(x, dtype=scale.dtype)


@shape_rule("InstanceNormalization", since=(1, 6, 22))
def _instance_norm(input: Array, scale: Array, b: Array, **_attributes: Any) -> Array:
    for name, value in (("scale", scale), ("B", b)):
        check_shape(value, input.shape[1:2], name)
    return like(input)


@shape_rule("LRN", since=(1, 13))
def _lrn(x: Array, *, size: int, **_attributes: Any) -> Array:
    if size < 1 or x.ndim < 2:
        raise KernelError(f"size must be at least 1, on (N, C, ...) (got {size}, {x.shape})")
    return like(x)
