"""Cases for the derivatives of single operators: operator, opset, inputs, attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One operator to differentiate.

    Attributes:
        inputs: an array, or None for an absent optional input.
        wrt: inputs to differentiate by; by default all of float64.
        n_outputs: how many outputs the node lists; the first `checked` of them are differentiated.
    """

    op_type: str
    opset: int
    inputs: Sequence[Array | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    wrt: Sequence[int] | None = None
    n_outputs: int = 1
    checked: Sequence[int] = (0,)
    note: str = ""

    def __str__(self) -> str:
        shapes = "-".join("x".join(map(str, x.shape)) if x is not None else "none" for x in self.inputs)
        values = "-".join(f"{k}={v}" for k, v in self.attributes.items())
        return "-".join(filter(None, (f"{self.op_type}{self.opset}", shapes, values, self.note)))

    @property
    def variables(self) -> list[int]:
        if self.wrt is not None:
            return list(self.wrt)
        return [i for i, x in enumerate(self.inputs) if x is not None and x.dtype == np.float64]


_rng = np.random.default_rng(5)


def real(*shape: int, low: float = -2.0, high: float = 2.0) -> Array:
    """Return numbers that keep a distance of 0.05 from each other and from 0: no kink, no tie is near."""
    count = int(np.prod(shape))
    steps = max(1, int((high - low) / 0.1))
    grid = low + (high - low) * (_rng.permutation(max(count, steps))[:count] + 0.5) / max(count, steps)
    return np.asarray(np.where(np.abs(grid) < 0.05, 0.07, grid).reshape(shape))


def ints(*values: Any) -> Array:
    return np.array(values, np.int64)


def scalar(value: float) -> Array:
    return np.array(value, np.float64)


_INSIDE: dict[str, tuple[float, float]] = {
    "Acos": (-0.9, 0.9),
    "Asin": (-0.9, 0.9),
    "Atanh": (-0.9, 0.9),
    "Acosh": (1.2, 3.0),
    "Log": (0.3, 3.0),
    "Sqrt": (0.3, 3.0),
    "Reciprocal": (0.4, 3.0),
    "Tan": (-1.2, 1.2),
}


def _inside(op_type: str) -> Array:
    """Return numbers where the function is smooth."""
    low, high = _INSIDE.get(op_type, (-2.0, 2.0))
    return real(2, 5, low=low, high=high)


UNARY = [
    Case(
        op_type,
        opset,
        [real(2, 5, low=_INSIDE.get(op_type, (-2, 2))[0], high=_INSIDE.get(op_type, (-2, 2))[1])],
    )
    for op_type, opset in [
        *(
            (name, 13)
            for name in ("Abs", "Exp", "Log", "Neg", "Reciprocal", "Sqrt", "Tanh", "Sigmoid", "Erf")
        ),
        *((name, 22) for name in ("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh")),
        *((name, 22) for name in ("Sin", "Sinh", "Tan", "Softplus", "Softsign", "Mish", "HardSwish")),
        *((name, 1) for name in ("Abs", "Exp", "Relu", "Sigmoid", "Tanh", "Softplus", "Identity")),
        ("Relu", 14),
        ("Identity", 25),
    ]
]

ACTIVATIONS = [
    Case("LeakyRelu", 16, [real(3, 4)]),
    Case("LeakyRelu", 6, [real(3, 4)], {"alpha": 0.3}),
    Case("Elu", 22, [real(3, 4)], {"alpha": 1.5}),
    Case("Elu", 1, [real(3, 4)]),
    Case("Selu", 22, [real(3, 4)]),
    Case("Selu", 1, [real(3, 4)]),
    Case("Selu", 6, [real(3, 4)], {"alpha": 2.0, "gamma": 0.5}),
    Case("Celu", 28, [real(3, 4)], {"alpha": 0.7}),
    Case("HardSigmoid", 22, [real(3, 4, low=-4, high=4)]),
    Case("HardSigmoid", 6, [real(3, 4)], {"alpha": 0.5, "beta": 0.3}),
    Case("HardSwish", 14, [real(3, 4, low=-5, high=5)]),
    Case("Swish", 24, [real(3, 4)], {"alpha": 1.3}),
    Case("SwiGLU", 28, [real(3, 4), real(3, 4)], {"alpha": 0.8}),
    Case("Gelu", 20, [real(3, 4)]),
    Case("Gelu", 20, [real(3, 4)], {"approximate": "tanh"}),
    Case("ThresholdedRelu", 22, [real(3, 5)], {"alpha": 0.53}),
    Case("Shrink", 9, [real(3, 5)], {"bias": 0.4, "lambd": 0.93}),
    Case("PRelu", 16, [real(2, 3, 4), real(3, 1)]),
    Case("PRelu", 7, [real(2, 3, 4), real(1)]),
    Case("PRelu", 6, [real(2, 3, 4), real(3)]),
    Case("PRelu", 1, [real(2, 3, 4), real(1)]),
    Case("Clip", 1, [real(3, 5)], {"min": -0.73, "max": 1.13}),
    Case("Clip", 6, [real(3, 5)], {"max": 1.13}),
    Case("Clip", 13, [real(3, 5), scalar(-0.73), scalar(1.13)]),
    Case("Clip", 11, [real(3, 5), None, scalar(0.41)]),
    Case("Clip", 12, [real(3, 5), scalar(-0.41)]),
    Case("Clip", 13, [real(3, 5), scalar(0.5), scalar(-0.5)], note="crossed bounds"),
    Case("Softmax", 13, [real(2, 3, 4)], {"axis": 1}),
    Case("Softmax", 11, [real(2, 3, 4)], {"axis": -2}),
    Case("Softmax", 1, [real(2, 3, 4)]),
    Case("LogSoftmax", 13, [real(2, 3, 4)]),
    Case("LogSoftmax", 1, [real(2, 3, 4)], {"axis": 0}),
]

ARITHMETIC = [
    *(Case(name, 14, [real(2, 3), real(2, 3)]) for name in ("Add", "Sub", "Mul")),
    *(Case(name, 7, [real(2, 1, 3), real(4, 1)]) for name in ("Add", "Sub", "Mul")),
    *(Case(name, 6, [real(2, 3, 4), real(3)], {"broadcast": 1, "axis": 1}) for name in ("Add", "Sub", "Mul")),
    Case("Add", 1, [real(2, 3), real(2, 3)]),
    Case("Mul", 1, [real(2, 3, 4), real(3, 4)], {"broadcast": 1}),
    Case("Mul", 6, [real(2, 3), scalar(1.5)], {"broadcast": 1}),
    Case("Div", 14, [real(2, 3), real(4, 1, 1, low=0.5)]),
    Case("Div", 6, [real(2, 3, 4), real(3, low=0.5)], {"broadcast": 1, "axis": 1}),
    Case("Pow", 15, [real(2, 3, low=0.3), real(3)]),
    Case("Pow", 15, [real(2, 3), np.array([[3.0], [2.0]])], wrt=[0]),
    Case("Pow", 15, [np.array([0.0, 1.3, 0.0]), np.array([0, 2, 3], np.int64)], wrt=[0], note="zero base"),
    Case("Pow", 12, [real(2, 3), ints(2)], wrt=[0], note="integer exponent"),
    Case("Pow", 1, [real(2, 3, low=0.3), real(3)], {"broadcast": 1}),
    Case("Mod", 13, [real(3, 4, low=-5, high=5), scalar(1.3)], {"fmod": 1}),
    Case("Where", 16, [np.array([[True], [False]]), real(2, 3), real(3)]),
    *(Case(name, 13, [real(2, 3), real(3), real(2, 1)]) for name in ("Sum", "Mean", "Max", "Min")),
    *(Case(name, 6, [real(2, 3), real(2, 3)]) for name in ("Sum", "Mean", "Max", "Min")),
    Case("Max", 8, [real(2, 3)]),
    Case("Cast", 13, [real(2, 3)], {"to": 11}),
    Case("CastLike", 15, [real(2, 3), real(1)], wrt=[0]),
]

_EQUATIONS: list[tuple[str, list[tuple[int, ...]]]] = [
    ("ij,jk->ik", [(2, 3), (3, 2)]),
    ("ij,jk", [(2, 3), (3, 2)]),
    ("bij,bjk->bik", [(2, 2, 3), (2, 3, 2)]),
    ("...ij,...jk->...ik", [(2, 1, 2, 3), (1, 2, 3, 2)]),
    ("...i,ij->...j", [(2, 2, 3), (3, 2)]),
    ("i...,ij->j...", [(3, 2), (3, 2)]),
    ("ij->j", [(2, 3)]),
    ("ij->", [(2, 3)]),
    ("ij,k->k", [(2, 3), (2,)]),
    ("a,b,c->abc", [(2,), (2,), (3,)]),
    ("ab,ab->", [(2, 3), (1, 3)]),
]

LINEAR = [
    *(
        Case("MatMul", 13, [real(*a), real(*b)])
        for a, b in [
            ((2, 3), (3, 4)),
            ((3,), (3,)),
            ((3,), (3, 2)),
            ((2, 3), (3,)),
            ((2, 2, 3), (3, 2)),
            ((3,), (2, 3, 2)),
            ((2, 1, 2, 3), (3, 3, 2)),
            ((2, 2, 3), (3,)),
        ]
    ),
    Case("MatMul", 1, [real(2, 3), real(3, 2)]),
    Case("Gemm", 13, [real(2, 3), real(3, 4), real(4)], {"alpha": 0.5, "beta": 2.0}),
    Case("Gemm", 13, [real(3, 2), real(4, 3)], {"transA": 1, "transB": 1}),
    Case("Gemm", 11, [real(2, 3), real(3, 4), real(2, 1)]),
    Case("Gemm", 6, [real(2, 3), real(3, 4), real(4)], {"broadcast": 1, "beta": 0.5}),
    Case("Gemm", 1, [real(2, 3), real(3, 2), real(2, 2)]),
    *(
        Case("Einsum", 12, [real(*s) for s in shapes], {"equation": equation})
        for equation, shapes in _EQUATIONS
    ),
]

_REDUCTIONS: dict[str, tuple[int, int]] = {
    "ReduceSum": (11, 13),
    "ReduceMean": (13, 18),
    "ReduceL1": (13, 18),
    "ReduceL2": (13, 18),
    "ReduceLogSum": (13, 18),
    "ReduceLogSumExp": (13, 18),
    "ReduceSumSquare": (13, 18),
    "ReduceMax": (13, 20),
    "ReduceMin": (13, 20),
    "ReduceProd": (13, 18),
}


def _low(name: str) -> float:
    return 0.2 if name == "ReduceLogSum" else -2.0


REDUCTIONS = [
    case
    for name, (old, new) in _REDUCTIONS.items()
    for case in (
        Case(name, old, [real(2, 3, 2, low=_low(name))], {"axes": [0, -1], "keepdims": 0}),
        Case(name, old, [real(2, 3, low=_low(name))]),
        Case(name, 1, [real(2, 3, low=_low(name))], {"axes": [1]}),
        Case(name, new, [real(2, 3, 2, low=_low(name)), ints(1)], {"keepdims": 0}),
        Case(name, new, [real(2, 3, low=_low(name)), ints(-1, 0)]),
        Case(name, new, [real(2, 3, low=_low(name))], {"keepdims": 0}),
        Case(name, new, [real(2, 3, low=_low(name))], {"noop_with_empty_axes": 1}),
    )
] + [
    Case("ReduceProd", 18, [np.array([[0.0, 1.5, -2.0], [0.0, 0.0, 0.7]]), ints(1)], note="zeros"),
    Case("CumSum", 14, [real(2, 4), ints(1).reshape(())]),
    Case("CumSum", 14, [real(2, 4), ints(-2).reshape(())], {"exclusive": 1}),
    Case("CumSum", 11, [real(4, 2), ints(0).reshape(())], {"reverse": 1, "exclusive": 1}),
]

SHAPES = [
    Case("Reshape", 14, [real(2, 3, 2), ints(0, -1)]),
    Case("Reshape", 1, [real(2, 3)], {"shape": [3, 2]}),
    Case("Flatten", 13, [real(2, 3, 2)], {"axis": 2}),
    Case("Flatten", 1, [real(2, 3, 2)]),
    Case("Squeeze", 13, [real(2, 1, 2), ints(1)]),
    Case("Squeeze", 1, [real(2, 1, 2)], {"axes": [1]}),
    Case("Unsqueeze", 13, [real(2, 2), ints(0, -1)]),
    Case("Unsqueeze", 1, [real(2, 2)], {"axes": [1]}),
    Case("Transpose", 13, [real(2, 3, 2)], {"perm": [2, 0, 1]}),
    Case("Transpose", 1, [real(2, 3)]),
    Case("Expand", 13, [real(3, 1), ints(2, 1, 4)]),
    Case("Tile", 13, [real(2, 3), ints(2, 3)]),
    Case("Tile", 1, [real(2, 3), scalar(2.0), scalar(1.0)], wrt=[0]),
    Case("Concat", 13, [real(2, 1), real(2, 3), real(2, 2)], {"axis": -1}),
    Case("Concat", 11, [real(1, 2), real(3, 2)], {"axis": 0}),
    Case("Concat", 1, [real(2, 1), real(2, 3)]),
    Case("Split", 18, [real(2, 5)], {"axis": 1, "num_outputs": 2}, n_outputs=2, checked=(0, 1)),
    Case("Split", 13, [real(2, 5), ints(1, 4)], {"axis": 1}, n_outputs=2, checked=(1,)),
    Case("Split", 2, [real(4, 2)], {"split": [1, 3]}, n_outputs=2, checked=(0,)),
    Case("Split", 1, [real(4, 2)], {"axis": 0}, n_outputs=2, checked=(0, 1)),
    Case("Slice", 13, [real(4, 5), ints(3, 1), ints(0, 9), ints(0, 1), ints(-1, 2)]),
    Case("Slice", 1, [real(4, 5)], {"starts": [1], "ends": [3], "axes": [1]}),
    Case("Pad", 1, [real(2, 3)], {"paddings": [0, 1, 2, 0], "value": 2.5}),
    Case("Pad", 2, [real(2, 3)], {"pads": [0, 1, 2, -1], "value": 2.5}),
    Case("Pad", 2, [real(2, 3)], {"pads": [0, 1, 1, 2], "mode": "reflect"}),
    Case("Pad", 13, [real(2, 3), ints(0, 1, 2, 0), scalar(0.5)]),
    Case("Pad", 18, [real(2, 3), ints(1, 2), None, ints(1)]),
    Case("Pad", 18, [real(2, 3), ints(1, 2), scalar(0.5), ints(1)], {"mode": "edge"}, wrt=[0]),
    Case("Pad", 23, [real(2, 3), ints(1, 2, 0, 4)], {"mode": "wrap"}),
    Case("DepthToSpace", 13, [real(1, 8, 1, 2)], {"blocksize": 2, "mode": "CRD"}),
    Case("DepthToSpace", 1, [real(1, 8, 1, 2)], {"blocksize": 2}),
    Case("SpaceToDepth", 13, [real(1, 2, 2, 4)], {"blocksize": 2}),
    Case("Trilu", 14, [real(2, 3, 3), ints(1).reshape(())], {"upper": 0}),
    Case("Trilu", 14, [real(3, 2)]),
    Case("ReverseSequence", 10, [real(3, 2), ints(2, 3)]),
    Case("Compress", 11, [real(2, 3), np.array([True, False, True])], {"axis": 1}),
    Case("Compress", 9, [real(2, 3), np.array([True, False, True])]),
    Case("CenterCropPad", 18, [real(3, 2), ints(2, 4)]),
]

INDEXING = [
    Case("Gather", 13, [real(3, 2), ints(2, 0, 2, -1)]),
    Case("Gather", 1, [real(2, 3), ints([1, 2], [1, 0])], {"axis": 1}),
    Case("Gather", 11, [real(3, 2), ints(1).reshape(())]),
    Case("GatherElements", 13, [real(3, 2), ints([0, 2], [2, 2])]),
    Case("GatherElements", 11, [real(2, 3), ints([0, -1, 0], [2, 1, 1])], {"axis": -1}),
    Case("GatherND", 11, [real(2, 3, 2), ints([0, 1], [0, 1], [1, -1])]),
    Case("GatherND", 13, [real(2, 3, 2), ints([1], [0])], {"batch_dims": 1}),
    Case("ScatterElements", 11, [real(3, 2), ints([2, 0]), real(1, 2)]),
    Case("ScatterElements", 18, [real(3, 2), ints([2, 0], [2, 1]), real(2, 2)], {"reduction": "add"}),
    Case("Scatter", 9, [real(2, 3), ints([2], [0]), real(2, 1)], {"axis": 1}),
    Case("ScatterND", 11, [real(3, 2), ints([2], [0]), real(2, 2)]),
    Case("ScatterND", 18, [real(3, 2), ints([2], [2]), real(2, 2)], {"reduction": "add"}),
    Case("TopK", 11, [real(2, 5), ints(3)], {"axis": 1}, n_outputs=2),
    Case("TopK", 1, [real(2, 5)], {"k": 2, "axis": -1}, n_outputs=2),
]

CONVOLUTIONS = [
    Case("Conv", 22, [real(2, 2, 4, 4), real(3, 2, 2, 2), real(3)]),
    Case("Conv", 11, [real(1, 4, 5), real(4, 2, 3)], {"group": 2, "strides": [2], "pads": [1, 2]}),
    Case("Conv", 11, [real(1, 2, 6, 3), real(2, 1, 2, 1)], {"group": 2, "dilations": [3, 1]}),
    Case("Conv", 1, [real(1, 1, 5, 4), real(2, 1, 3, 2)], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    Case("Conv", 22, [real(1, 1, 2, 3, 2), real(1, 1, 2, 2, 1)]),
    Case("Conv", 22, [real(2, 3, 3), real(2, 3, 1), real(2)], note="pixels"),
    Case("ConvTranspose", 22, [real(1, 2, 3, 2), real(2, 3, 2, 2), real(3)]),
    Case(
        "ConvTranspose",
        11,
        [real(1, 2, 3), real(2, 2, 3)],
        {"group": 2, "strides": [2], "dilations": [2], "pads": [1, 2], "output_padding": [1]},
    ),
    Case("ConvTranspose", 11, [real(1, 1, 3), real(1, 1, 2)], {"strides": [3], "output_shape": [6]}),
    Case("ConvTranspose", 11, [real(1, 1, 3), real(1, 1, 2)], {"strides": [2], "output_shape": [9]}),
    Case("ConvTranspose", 11, [real(1, 1, 3), real(1, 1, 4)], {"strides": [2], "auto_pad": "SAME_UPPER"}),
    Case("ConvTranspose", 1, [real(1, 1, 3), real(1, 1, 4)], {"strides": [2], "output_shape": [7]}),
]

POOLS = [
    Case("MaxPool", 12, [real(1, 2, 4, 4)], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case("MaxPool", 1, [real(1, 2, 5)], {"kernel_shape": [3], "pads": [1, 1]}),
    Case(
        "MaxPool",
        22,
        [real(1, 1, 5, 5)],
        {"kernel_shape": [2, 2], "dilations": [2, 2], "ceil_mode": 1, "storage_order": 1},
        n_outputs=2,
    ),
    Case("AveragePool", 22, [real(1, 2, 4, 5)], {"kernel_shape": [2, 3], "pads": [1, 0, 0, 2]}),
    Case("AveragePool", 7, [real(1, 1, 5)], {"kernel_shape": [3], "pads": [1, 2], "count_include_pad": 1}),
    Case(
        "AveragePool",
        19,
        [real(1, 1, 6)],
        {"kernel_shape": [2], "dilations": [2], "strides": [3], "ceil_mode": 1},
    ),
    Case("AveragePool", 1, [real(1, 1, 5)], {"kernel_shape": [2], "strides": [2], "auto_pad": "SAME_UPPER"}),
    Case("GlobalAveragePool", 22, [real(2, 2, 2, 3)]),
    Case("GlobalMaxPool", 1, [real(2, 2, 3)]),
    Case("GlobalLpPool", 2, [real(2, 2, 3)], {"p": 3}),
]


def _batch(training: bool) -> list[Array]:
    return [real(3, 2, 2), real(2), real(2), real(2), real(2, low=0.5)]


NORMALIZATIONS = [
    Case("LpNormalization", 1, [real(2, 3)]),
    Case("LpNormalization", 22, [real(2, 3)], {"axis": 0, "p": 1}),
    Case("BatchNormalization", 15, _batch(False)),
    Case("BatchNormalization", 9, _batch(False), {"epsilon": 0.1}),
    Case("BatchNormalization", 6, _batch(False), {"is_test": 1}),
    Case("BatchNormalization", 7, [real(3, 2, 2), *(real(4, low=0.5) for _ in range(4))], {"spatial": 0}),
    Case("BatchNormalization", 15, [real(4), *(real(1, low=0.5) for _ in range(4))], note="vector"),
    Case("BatchNormalization", 15, _batch(True), {"training_mode": 1}, n_outputs=3, checked=(0, 1, 2)),
    Case("BatchNormalization", 9, _batch(True), n_outputs=5, checked=(0, 1, 2, 3, 4)),
    Case("BatchNormalization", 6, _batch(True), {"momentum": 0.7}, n_outputs=5),
    Case("InstanceNormalization", 6, [real(2, 2, 3), real(2), real(2)]),
    Case("InstanceNormalization", 22, [real(1, 2, 2, 2), real(2), real(2)], {"epsilon": 0.1}),
    Case("GroupNormalization", 18, [real(2, 4, 2), real(2), real(2)], {"num_groups": 2}),
    Case("GroupNormalization", 21, [real(2, 4, 2), real(4), real(4)], {"num_groups": 2, "stash_type": 11}),
    Case("LayerNormalization", 17, [real(2, 3, 4), real(4), real(4)], {"stash_type": 11}),
    Case(
        "LayerNormalization",
        17,
        [real(2, 3, 2), real(3, 2)],
        {"axis": 1, "stash_type": 11, "epsilon": 0.1},
        n_outputs=3,
        checked=(0, 1, 2),
    ),
    Case("RMSNormalization", 23, [real(2, 3, 2), real(3, 1)], {"axis": -2, "stash_type": 11}),
    Case("MeanVarianceNormalization", 13, [real(2, 2, 2, 2)]),
    Case("MeanVarianceNormalization", 9, [real(2, 3)], {"axes": []}),
    Case("LRN", 13, [real(1, 5, 2)], {"size": 3, "alpha": 0.5, "bias": 1.5}),
    Case("LRN", 1, [real(1, 3, 2)], {"size": 2, "alpha": 0.5}),
]

_PROB = np.log(real(3, 4, low=0.1, high=0.9))
LOSSES = [
    Case("NegativeLogLikelihoodLoss", 13, [_PROB, ints(0, 3, 1)]),
    Case("NegativeLogLikelihoodLoss", 22, [_PROB, ints(0, 3, 1), real(4, low=0.2)], {"reduction": "sum"}),
    Case(
        "NegativeLogLikelihoodLoss",
        12,
        [real(2, 3, 2), ints([0, -1], [2, 1]), real(3, low=0.2)],
        {"ignore_index": -1, "reduction": "mean"},
    ),
    Case("SoftmaxCrossEntropyLoss", 13, [real(3, 4), ints(0, 3, 1)]),
    Case("SoftmaxCrossEntropyLoss", 12, [real(2, 3, 2), ints([0, 1], [2, 1])], {"reduction": "none"}),
    Case(
        "SoftmaxCrossEntropyLoss",
        13,
        [real(3, 4), ints(0, 7, 1), real(4, low=0.2)],
        {"ignore_index": 7},
        n_outputs=2,
        checked=(0, 1),
    ),
]

DROPOUT = [
    Case("Dropout", 13, [real(2, 3)], note="inference"),
    Case("Dropout", 7, [real(2, 3)]),
    Case("Dropout", 6, [real(2, 3)], {"is_test": 1}),
    Case("Dropout", 13, [real(4, 5), scalar(0.4), np.array(True)], {"seed": 3}, wrt=[0]),
    Case("Dropout", 22, [real(4, 5), scalar(0.4), np.array(False)], wrt=[0]),
    Case("Dropout", 12, [real(4, 5), None, np.array(True)], {"seed": 4}, wrt=[0]),
]

CASES = [
    *UNARY,
    *ACTIVATIONS,
    *ARITHMETIC,
    *LINEAR,
    *REDUCTIONS,
    *SHAPES,
    *INDEXING,
    *CONVOLUTIONS,
    *POOLS,
    *NORMALIZATIONS,
    *LOSSES,
    *DROPOUT,
]
