"""Rows for `test_function_bodies.py`: inputs and attributes for every operator that has a body."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
from function_cases_attention import ATTENTION_ROWS
from function_rows import (
    ALL_TYPES,
    BF16,
    DIFFERENT,
    F16,
    F32,
    F64,
    FLOAT32_BODY,
    FLOATS,
    INTS,
    INVALID_BODY,
    SIGNED,
    UNSIGNED,
    Call,
    Deviation,
    Make,
    Row,
    as_type,
    but,
    fixed,
    labels,
    rows,
    scalar,
    sequence,
    uniform,
    values,
)
from node_models import element
from onnx import parser

from onnxref.dtypes import tensor_type_string

X = uniform(2, 3, 4)
SPECIAL = values(np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-7, -1e-7, 100, -100)


def _unary(op_type: str, *attributes: Mapping[str, Any], **common: Any) -> list[Row]:
    """Return rows of an element-wise operator: a block of values and the special ones, per attributes."""
    found = []
    for given in attributes or ({},):
        label = ",".join(f"{k}={v}" for k, v in given.items()) or "defaults"
        found.append(Row(op_type, label, (X,), given, **common))
        found.append(Row(op_type, f"{label}, special", (SPECIAL,), given))
    return found


_CLIP_DEFAULTS = "an absent bound is the largest finite number; the body lets infinities pass"

ACTIVATIONS = [
    *_unary("Celu", {}, {"alpha": 0.5}),
    *but(
        Deviation(
            DIFFERENT,
            "max(0, x) + min(0, alpha * (exp(x / alpha) - 1)), the text, is not alpha * Elu(x / alpha), "
            "the body, where alpha < 0",
        ),
        *_unary("Celu", {"alpha": -2.0}),
    ),
    *_unary("Elu", {}, {"alpha": 2.5}),
    *_unary("Gelu"),
    *but(
        Deviation(FLOAT32_BODY, "the body's constants are float32", (F64,)),
        Row("Gelu", "tanh", (X,), {"approximate": "tanh"}),
    ),
    Row("Gelu", "tanh, special", (SPECIAL,), {"approximate": "tanh"}),
    *_unary("HardSigmoid", {}, {"alpha": 0.5, "beta": 0.3}),
    *but(Deviation(FLOAT32_BODY, "the body's 1/6 is float32", (F64,)), Row("HardSwish", "values", (X,))),
    Row("HardSwish", "special", (SPECIAL,)),
    *_unary("LeakyRelu", {}, {"alpha": 0.25}, {"alpha": -1.5}),
    *_unary("Mish"),
    *_unary("Relu", dtypes=FLOATS + INTS),
    *_unary("Selu", {}, {"alpha": 0.5, "gamma": 2.0}),
    *but(
        Deviation(INVALID_BODY, "the body uses Neg, which takes no unsigned integers", UNSIGNED),
        Row("Shrink", "defaults", (X,), dtypes=FLOATS + INTS),
        Row("Shrink", "lambd and bias", (X,), {"lambd": 1.5, "bias": 0.5}, dtypes=FLOATS + INTS),
    ),
    Row("Shrink", "special", (SPECIAL,), {"lambd": 0.1}),
    Row("Softplus", "values", (X,)),
    *but(
        Deviation(DIFFERENT, "the body's exp overflows where ln(1 + exp(x)) does not", (F32, F16, BF16)),
        Row("Softplus", "special", (SPECIAL,)),
    ),
    *_unary("Softsign"),
    *_unary("Swish", {}, {"alpha": 1.75}, {"alpha": -1.0}),
    *_unary("ThresholdedRelu", {}, {"alpha": 0.25}, {"alpha": -1.0}),
    Row("PRelu", "same shape", (X, X), dtypes=FLOATS + INTS),
    Row("PRelu", "broadcast", (X, uniform(3, 1)), dtypes=FLOATS + INTS),
    Row("PRelu", "special", (SPECIAL, values(0.5))),
    Row("SwiGLU", "defaults", (X, X)),
    Row("SwiGLU", "alpha", (X, X), {"alpha": 1.5}),
    Row("SwiGLU", "special", (SPECIAL, uniform(9))),
    *(
        row
        for op_type in ("GreaterOrEqual", "LessOrEqual")
        for row in (
            Row(op_type, "same shape", (X, X), dtypes=FLOATS + INTS),
            Row(op_type, "broadcast", (X, uniform(4)), dtypes=FLOATS + INTS),
            Row(op_type, "special", (SPECIAL, values(0.0, np.inf, 0, 0, 0, 0, 0, 100, np.nan))),
        )
    ),
]

CLIP = [
    Row("Clip", "none", (X,), dtypes=FLOATS + INTS),
    *but(
        Deviation(INVALID_BODY, "the body uses Where-9, which takes no bfloat16", (BF16,)),
        Row("Clip", "both", (X, scalar(1), scalar(2)), dtypes=FLOATS + INTS),
        Row("Clip", "min", (X, scalar(1)), dtypes=FLOATS + INTS),
        Row("Clip", "max", (X, None, scalar(2)), dtypes=FLOATS + INTS),
        Row("Clip", "min over max", (X, scalar(2), scalar(1)), dtypes=FLOATS + INTS),
        Row("Clip", "special", (SPECIAL, scalar(-1), scalar(1))),
        *but(
            Deviation(DIFFERENT, _CLIP_DEFAULTS, (F32, F64, F16)),
            Row("Clip", "infinities, no max", (SPECIAL, scalar(-1))),
            Row("Clip", "infinities, no min", (SPECIAL, None, scalar(1))),
        ),
    ),
    *but(Deviation(DIFFERENT, _CLIP_DEFAULTS), Row("Clip", "infinities, no bounds", (SPECIAL,))),
]


def _reductions(op_type: str, low: float = -3) -> list[Row]:
    data = uniform(2, 3, 4, low=low)
    axis = data, fixed([-2])
    empty = data, fixed([])
    calls: list[tuple[str, tuple[Make, ...], dict[str, int]]] = [
        ("all", (data,), {}),
        ("axes", (data, fixed([0, 2])), {}),
        ("negative axis, no keepdims", axis, {"keepdims": 0}),
        ("noop", (data,), {"noop_with_empty_axes": 1}),
        ("empty axes", empty, {"keepdims": 0}),
        ("noop, empty axes", empty, {"noop_with_empty_axes": 1}),
    ]
    return [Row(op_type, label, inputs, given, dtypes=FLOATS + INTS) for label, inputs, given in calls]


_LOG_SUM = Deviation(INVALID_BODY, "the body uses Log, which takes no integers", INTS, since=(18,))
_L2 = Deviation(FLOAT32_BODY, "the body casts the sum of squares to float32", (F64,))
REDUCTIONS = [
    *[row for op_type in ("ReduceL1", "ReduceLogSumExp", "ReduceSumSquare") for row in _reductions(op_type)],
    *but(_L2, *_reductions("ReduceL2")),
    *but(_LOG_SUM, *_reductions("ReduceLogSum", low=0.5)),
    *(
        Row(op_type, "no elements", (uniform(2, 0, 3), fixed([1])))
        # Of integers, the logarithm of 0 would be an infinity cast to an integer, which is undefined.
        for op_type in ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")
    ),
]

_FAR = uniform(2, 3, 4, low=1000, high=1001)
_CANCELS = Deviation(DIFFERENT, "the body's variance is E[x^2] - E[x]^2, which cancels")
_GROUPED = (uniform(2, 4, 3, 2), uniform(4), uniform(4))
NORMALIZATION = [
    *(
        Row(op_type, f"axis={axis}", (uniform(2, 3, 4),), {"axis": axis})
        for op_type in ("Softmax", "LogSoftmax")
        for axis in (0, 1, -1)
    ),
    Row("Softmax", "default axis", (uniform(3, 5, low=-30, high=30),)),
    Row("LogSoftmax", "default axis", (uniform(3, 5, low=-30, high=30),)),
    *(
        Row("LayerNormalization", label, inputs, given, n_outputs=n_outputs, stage=F32)
        for label, inputs, given, n_outputs in (
            ("last axis", (X, uniform(4), uniform(4)), {}, 3),
            ("no bias", (X, uniform(4)), {"epsilon": 0.01}, 3),
            ("axis=1", (X, uniform(3, 4), uniform(3, 4)), {"axis": 1}, 3),
            ("axis=0, one output", (X, uniform(2, 3, 4)), {"axis": 0}, 1),
        )
    ),
    *but(
        Deviation(INVALID_BODY, "the body flattens B, which then no longer broadcasts"),
        Row("LayerNormalization", "B broadcasts", (X, uniform(3, 4), uniform(4)), {"axis": 1}),
    ),
    Row("RMSNormalization", "last axis", (X, uniform(4)), stage=F32),
    Row("RMSNormalization", "axis=1", (X, uniform(3, 4)), {"axis": 1, "epsilon": 0.01}, stage=F32),
    *but(
        Deviation(INVALID_BODY, "the body multiplies X and scale, whose types may differ", (F64, F16, BF16)),
        Row("RMSNormalization", "scale in float", (X, as_type(F32, uniform(4)))),
    ),
    *but(
        Deviation(
            INVALID_BODY, "the body adds a float32 epsilon to values of another type", (F64, F16, BF16)
        ),
        Row("MeanVarianceNormalization", "defaults", (uniform(2, 3, 4, 2),)),
        Row("MeanVarianceNormalization", "axes", (uniform(2, 3, 4, 2),), {"axes": [1, 2]}),
    ),
    *but(
        _CANCELS,
        Row("LayerNormalization", "far from 0", (_FAR, uniform(4), uniform(4)), dtypes=(F32,)),
        Row(
            "GroupNormalization",
            "far from 0",
            (_FAR, uniform(3), uniform(3)),
            {"num_groups": 3},
            dtypes=(F32,),
            roundings=8,
        ),
        Row("MeanVarianceNormalization", "far from 0", (_FAR,), {"axes": [1, 2]}, dtypes=(F32,)),
    ),
    # Statistics of a group: each sum is rounded several times.
    *rows(
        "GroupNormalization",
        ("per group", (uniform(2, 4, 3), uniform(2), uniform(2)), {"num_groups": 2}),
        since=(18,),
        roundings=8,
    ),
    *rows(
        "GroupNormalization",
        ("per channel", _GROUPED, {"num_groups": 2}),
        ("groups of one", _GROUPED, {"num_groups": 4, "epsilon": 0.1}),
        since=(21,),
        stage=F32,
        roundings=8,
    ),
    *rows(
        "GroupNormalization",
        ("one group, stash double", _GROUPED, {"num_groups": 1, "stash_type": element("double")}),
        since=(21,),
        roundings=8,
    ),
]


def _losses(op_type: str, n_outputs: int) -> list[Row]:
    weight = uniform(5, low=0.2)
    found: list[Row] = []
    for reduction in ("mean", "sum", "none"):
        for rank, shape in enumerate(((), (2, 3))):
            given = uniform(3, 5, *shape), labels(3, *shape, classes=5)
            plain = {"reduction": reduction}
            ignoring = plain | {"ignore_index": 2}
            calls: list[Call] = [
                (f"{reduction} {rank}", given, plain),
                (f"{reduction} {rank}, weights", (*given, weight), plain),
                (f"{reduction} {rank}, ignore", given, ignoring),
                (f"{reduction} {rank}, weights, ignore", (*given, weight), ignoring),
            ]
            found += rows(op_type, *calls, n_outputs=n_outputs)
    int32 = labels(3, classes=5, dtype=np.int32)
    return found + rows(op_type, ("one output, int32", (uniform(3, 5), int32), {}))


LOSSES = [
    *but(
        Deviation(
            INVALID_BODY,
            "the body uses NegativeLogLikelihoodLoss-13, which takes no bfloat16",
            (BF16,),
            (13,),
        ),
        *_losses("SoftmaxCrossEntropyLoss", 2),
    ),
    *_losses("NegativeLogLikelihoodLoss", 1),
]


def _windows(op_type: str, deviation: Deviation | None = None) -> list[Row]:
    found: list[Row] = []
    for size, periodic in ((10, 0), (10, 1), (7, 0), (1, 0), (1, 1)):
        for to in ("float", "double", "float16", "bfloat16", "int32"):
            # A symmetric window of one point is 0 / 0, which as an integer is undefined.
            if size == 1 and to in ("double", "int32"):
                continue
            given = {"periodic": periodic, "output_datatype": element(to)}
            row = Row(op_type, f"size={size}, periodic={periodic}, to {to}", (scalar(size),), given)
            if to == "double":
                found += but(Deviation(FLOAT32_BODY, "the body computes in float32"), row)
            elif to == "int32" and deviation is not None and size % 2 != periodic:
                found += but(deviation, row)
            else:
                found.append(row)
    return [replace(row, dtypes=INTS) for row in found]


WINDOWS = [
    *_windows(
        "BlackmanWindow",
        Deviation(DIFFERENT, "the body's peak, computed in float32, is 0.99999994 and truncated to 0"),
    ),
    *_windows("HammingWindow"),
    *_windows("HannWindow"),
]


def _casts() -> list[Row]:
    types = (*FLOATS, *INTS, np.dtype(bool))
    found = [
        Row("CastLike", f"to {to.name}", (uniform(2, 5, high=9), as_type(to, uniform(1))), dtypes=types)
        for to in types
    ]
    data = values(1e6, -3, 0.1, np.nan, np.inf)
    for name in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"):
        to = as_type(np.dtype(getattr(ml_dtypes, name)), uniform(1))
        for saturate in (0, 1):
            call: Call = (f"to {name}, saturate={saturate}", (data, to), {"saturate": saturate})
            found += rows("CastLike", call, since=(19, 21, 23, 24, 25))
    return found


def _range(start: float, limit: float, delta: float) -> Call:
    return f"{start} to {limit} by {delta}", (scalar(start), scalar(limit), scalar(delta)), {}


_NEVER_CAME = Deviation(
    DIFFERENT,
    "nothing in a function body says which type a Loop's scan output has that never came",
    (F64, *INTS),
)
_SUB_7 = Deviation(
    INVALID_BODY, "the body uses Sub-7, which takes no int16", (np.dtype("int16"),), since=(11,)
)
_ACCUMULATES = Deviation(
    DIFFERENT, "the text has start + i * delta, the body adds delta again and again", (F32, F64)
)
_NUMBERS = (*FLOATS, *SIGNED[1:])

RANGES = [
    *but(_SUB_7, *rows("Range", _range(1, 9, 2), _range(10, 3, -2), dtypes=_NUMBERS)),
    *but(_NEVER_CAME, *but(_SUB_7, *rows("Range", _range(5, 5, 1), _range(3, 1, 1), dtypes=_NUMBERS))),
    *rows("Range", _range(0.5, 2, 0.25)),
    *but(_ACCUMULATES, *rows("Range", _range(0, 20, 0.1))),
    *but(
        Deviation(INVALID_BODY, "the schema gives a body only where the stash type is float"),
        Row(
            "Range",
            "stash float16",
            (scalar(0), scalar(2), scalar(0.5)),
            {"stash_type": element("float16")},
            dtypes=(F16, BF16),
            since=(27,),
        ),
    ),
]

_ALIGNED = {"align_corners": 1}
GRIDS = [
    *rows(
        "AffineGrid",
        ("2-d", (uniform(2, 2, 3), fixed([2, 3, 4, 5])), {}),
        ("2-d, align corners", (uniform(2, 2, 3), fixed([2, 3, 4, 5])), _ALIGNED),
        ("3-d", (uniform(2, 3, 4), fixed([2, 3, 4, 5, 2])), {}),
        ("3-d, align corners", (uniform(2, 3, 4), fixed([2, 3, 4, 5, 2])), _ALIGNED),
        ("3-d, batch of one", (uniform(1, 3, 4), fixed([1, 3, 4, 5, 2])), {}),
        ("3-d, flat, align corners", (uniform(2, 3, 4), fixed([2, 3, 1, 5, 2])), _ALIGNED),
        roundings=8,  # four products and their sum, of positions that are rounded themselves
        scale=8,
    ),
    *but(
        Deviation(INVALID_BODY, "the body's Squeeze without axes takes away the batch of one too"),
        *rows("AffineGrid", ("2-d, batch of one", (uniform(1, 2, 3), fixed([1, 3, 4, 5])), {})),
    ),
    *but(
        Deviation(DIFFERENT, "the body steps by 2 / 0 where a height or width is 1, though not a depth"),
        *rows(
            "AffineGrid",
            ("2-d, one row, align corners", (uniform(2, 2, 3), fixed([2, 3, 1, 5])), _ALIGNED),
            ("3-d, one row, align corners", (uniform(2, 3, 4), fixed([2, 3, 4, 1, 5])), _ALIGNED),
        ),
    ),
]

CREATION = [
    *but(
        Deviation(DIFFERENT, "the body has the outcomes the wrong way round: certain ones become impossible"),
        *rows(
            "Bernoulli",
            ("certain", (values(0, 1, 1, 0, 1),), {}),
            ("certain, dtype", (values(0, 1, 1, 0, 1),), {"dtype": element("int32")}),
        ),
    ),
    *rows(
        "DynamicQuantizeLinear",
        ("both signs", (uniform(3, 4),), {}),
        ("positive", (uniform(3, 4, low=1),), {}),
        ("negative", (uniform(3, 4, high=-1),), {}),
        n_outputs=3,
    ),
]


def _blocks(op_type: str, *shapes: tuple[int, ...]) -> list[Row]:
    calls: list[Call] = [
        (f"{mode}, blocksize={size}", (uniform(2, *shape),), {"blocksize": size, "mode": mode})
        for size, shape in enumerate(shapes, start=2)
        for mode in ("DCR", "CRD")
    ]
    return rows(op_type, *calls, ("default mode", (uniform(1, 4, 2, 2),), {"blocksize": 2}), dtypes=ALL_TYPES)


MOVING = [
    *_blocks("DepthToSpace", (8, 2, 3), (9, 1, 2)),
    *_blocks("SpaceToDepth", (2, 4, 6), (1, 6, 3)),
    *rows(
        "CenterCropPad",
        ("crop", (uniform(6, 7), fixed([3, 4])), {}),
        ("pad", (uniform(2, 3), fixed([5, 4])), {}),
        ("crop and pad", (uniform(2, 7), fixed([5, 4])), {}),
        ("axes", (uniform(4, 3, 5), fixed([3, 6])), {"axes": [2, 0]}),
        ("negative axes", (uniform(4, 3, 5), fixed([4])), {"axes": [-2]}),
        dtypes=ALL_TYPES,
    ),
    *but(
        Deviation(INVALID_BODY, "the body takes the Max of shape and an int64 constant"),
        *rows("CenterCropPad", ("int32 shape", (uniform(2, 7), fixed([5, 4], np.int32)), {})),
    ),
]


def _body(nodes: str, inputs: str, outputs: str) -> Callable[[np.dtype[Any]], Any]:
    """Return a maker of a subgraph whose inputs and outputs are of the type under test."""

    def make(dtype: np.dtype[Any]) -> Any:
        kind = tensor_type_string(dtype)[len("tensor(") : -1]
        take, give = (", ".join(f"{kind}[N] {name}" for name in names) for names in (inputs, outputs))
        return parser.parse_graph(f"body ({take}) => ({give}) {{ {nodes} }}")

    return make


_PAIR = sequence(uniform(2), uniform(2))
_UNEVEN = sequence(uniform(2), uniform(3))
SEQUENCES = [
    *rows(
        "SequenceMap",
        ("one input", (_UNEVEN,), {"body": _body("y = Neg(x)", "x", "y")}),
        ("a tensor beside", (_PAIR, uniform(2)), {"body": _body("y = Sub(a, b)", "ab", "y")}),
    ),
    *rows(
        "SequenceMap",
        ("two sequences", (_UNEVEN, _UNEVEN), {"body": _body("y = Add(a, b) z = Mul(a, b)", "ab", "yz")}),
        ("identity", (_PAIR, uniform(2)), {"body": _body("y = Identity(a) z = Identity(b)", "ab", "yz")}),
        n_outputs=2,
    ),
]

ROWS = [
    *ACTIVATIONS,
    *CLIP,
    *REDUCTIONS,
    *NORMALIZATION,
    *LOSSES,
    *WINDOWS,
    *_casts(),
    *RANGES,
    *GRIDS,
    *CREATION,
    *MOVING,
    *SEQUENCES,
    *ATTENTION_ROWS,
]
