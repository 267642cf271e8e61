"""Specs for the suite `types`: for every operator, the smallest call that its schemas allow.

An operator without an entry is called with its required inputs, of shape (2, 3), and no attributes.
An entry holds from its version up to the next one.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx.defs import OpSchema

from ._type_cases_ml import LEARNING, MACHINE_LEARNING
from ._type_specs import (
    D,
    Item,
    Spec,
    Types,
    dtype_of,
    graph,
    inner,
    is_whole,
    number,
    number_of,
    one_tensor,
    spec,
    whole_or,
)

ML = "ai.onnx.ml"
PREVIEW = "ai.onnx.preview"
TRAINING = "ai.onnx.preview.training"

Key = tuple[str, int]

_IMAGE = (1, 2, 3, 3)


def _cast_name(types: Types) -> str:
    return inner(types["T2"]).upper()


# --- element-wise, reductions, matrices ----------------------------------------------------------

# The specification leaves open what a negative number becomes in an unsigned type, or a negative shift.
_SMALL = D([[1, 0, 2], [3, 1, 1]])
_TWO = spec((2, 3), (2, 3))

# Integers of which the result is whole.
_WHOLE_RESULTS = {
    "ReduceL2": [[1, 2, 2], [4, 0, 0]],
    "ReduceLogSum": [[1, 0, 0], [0, 0, 0]],
    "ReduceLogSumExp": [[40, 0, 0], [0, 0, 0]],
    "ReduceMean": [[1, 2, 3], [4, 0, 2]],
}


def _divisors(types: Types) -> tuple[Item, ...]:
    signs = 1 if types["T"].startswith("tensor(u") else np.array([[1, -1, -1], [-1, 1, 1]])
    return (2, 3), D(signs * np.array([[2, 3, 3], [2, 2, 5]]))


def _quantized_product(types: Types) -> tuple[Item, ...]:
    a, b, y = (_zero_point(types[variable]) for variable in ("T1", "T2", "T3"))
    return (2, 3), D(0.5), a, (3, 2), D(0.25), b, D(0.75), y


def _zero_point(type_string: str) -> D:
    """Return a zero point, which floats and int32 have to have at 0."""
    return D(int(is_whole(type_string) and type_string != "tensor(int32)"))


def _scale(type_string: str) -> D:
    """Return a scale, near which no quotient of whole numbers lies between two steps."""
    return D({"tensor(int32)": 1, "tensor(float8e8m0)": 0.5}.get(type_string, 0.75))


MATH: dict[Key, Spec] = {
    **{(name, 1): Spec(whole_or("T", D(data), (2, 3))) for name, data in _WHOLE_RESULTS.items()},
    **{(name, 1): _TWO for name in ("Max", "Min", "Mean", "Sum")},
    ("BitShift", 11): spec((2, 3), _SMALL, direction="LEFT"),
    ("Clip", 11): spec((2, 3), D(0), D(1)),
    ("CumProd", 26): spec((2, 3), D(1)),
    ("CumSum", 11): spec((2, 3), D(1)),
    ("Det", 11): spec((2, 2)),
    ("Div", 1): spec((2, 3), D([[1, 1, 1]] * 2)),
    ("Einsum", 12): spec((2, 3), (3, 2), equation="ij,jk->ik"),
    ("Gemm", 1): spec((2, 3), (3, 2), (2, 2)),
    ("LinearAttention", 27): spec(
        *((1, 2, 4),) * 3, (1, 1, 4, 4), n_outputs=2, q_num_heads=1, kv_num_heads=1, update_rule="linear"
    ),
    ("MatMul", 1): spec((2, 3), (3, 2)),
    ("MatMulInteger", 10): spec((2, 3), (3, 2), (), ()),
    ("Mod", 10): Spec(_divisors, {"fmod": lambda types: int(not is_whole(types["T"]))}),
    ("Pow", 1): spec((2, 3), D([[1, 2, 0]] * 2)),
    ("QLinearMatMul", 10): Spec(_quantized_product),
    ("TopK", 1): spec((2, 3), k=2, n_outputs=2),
    ("TopK", 10): spec((2, 3), D([2]), n_outputs=2),
}

# --- neural networks -----------------------------------------------------------------------------

_NORM = ((1, 2, 3), *((2,),) * 4)
_POOLED = spec((1, 1, 4, 4), kernel_shape=[2, 2])
_OFFSETS = np.resize([0.5, -0.5, 0, 1.5, 0.25], (1, 8, 2, 2))  # of points within and without the image
_RECURRENT = {"GRU": 3, "LSTM": 4, "RNN": 1}


def _recurrent(gates: int, version: int) -> Spec:
    size = 2
    weights = ((1, gates * size, 3), (1, gates * size, size), (1, 2 * gates * size))
    whole = {"output_sequence": 1} if version < 7 else {}
    return spec((2, 1, 3), *weights, D([2]), (1, 1, size), n_outputs=2, hidden_size=size, **whole)


NEURAL: dict[Key, Spec] = {
    **{(name, v): _recurrent(gates, v) for name, gates in _RECURRENT.items() for v in (1, 7)},
    **{(name, 1): spec(_IMAGE) for name in ("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool")},
    **{(name, 1): spec((1, 1, 4, 4), (1, 1, 2, 2), (1,)) for name in ("Conv", "ConvTranspose")},
    ("Attention", 23): spec(*((1, 1, 2, 4),) * 3, (2, 4), *((1, 1, 2, 4),) * 2, n_outputs=4),
    ("AveragePool", 1): _POOLED,
    ("BatchNormalization", 1): spec(*_NORM, is_test=1, consumed_inputs=[0, 0, 0, 1, 1]),
    ("BatchNormalization", 6): spec(*_NORM, is_test=1),
    ("BatchNormalization", 7): spec(*_NORM),
    ("BatchNormalization", 14): spec(*_NORM, n_outputs=3, training_mode=1),
    ("CausalConvWithState", 27): spec((1, 2, 4), (2, 1, 3), (2,), (1, 2, 2), n_outputs=2),
    ("ConvInteger", 10): spec((1, 1, 4, 4), (1, 1, 2, 2), (), ()),
    ("DeformConv", 19): spec((1, 1, 3, 3), (1, 1, 2, 2), D(_OFFSETS), (1,), (1, 4, 2, 2)),
    ("Dropout", 1): spec((2, 3), is_test=1),
    ("Dropout", 7): spec((2, 3), n_outputs=2),
    ("Dropout", 12): spec((2, 3), D(0), D(False), n_outputs=2),
    ("FlexAttention", 1): spec(*((1, 1, 2, 4),) * 3),
    ("GroupNormalization", 18): spec((1, 2, 3), (2,), (2,), num_groups=2),
    ("InstanceNormalization", 1): spec((1, 2, 3), (2,), (2,)),
    ("LRN", 1): spec(_IMAGE, size=1),
    ("LayerNormalization", 17): spec((2, 3), (3,), (3,), n_outputs=3, stash_type=number("U")),
    ("LpPool", 1): _POOLED,
    ("MaxPool", 1): _POOLED,
    ("MaxPool", 8): replace(_POOLED, n_outputs=2),
    ("MaxRoiPool", 1): spec((1, 1, 4, 4), D([[0, 0, 0, 3, 3]]), pooled_shape=[2, 2]),
    ("MaxUnpool", 9): spec((1, 1, 2, 2), D([[[[0, 3], [8, 10]]]]), kernel_shape=[2, 2], strides=[2, 2]),
    ("MeanVarianceNormalization", 9): spec(_IMAGE),
    ("NegativeLogLikelihoodLoss", 12): spec((2, 3), D([0, 1]), (3,)),
    ("QLinearConv", 10): spec((1, 1, 3, 3), D(0.5), D(1), (1, 1, 2, 2), D(0.5), D(0), D(0.75), D(1), (1,)),
    ("RMSNormalization", 23): spec((2, 3), (3,)),
    ("RoiAlign", 10): spec((1, 1, 4, 4), D([[0, 0, 3, 3]]), D([0])),
    ("RotaryEmbedding", 23): spec((1, 1, 2, 4), (2, 2), (2, 2), D([[0, 1]])),
    ("SoftmaxCrossEntropyLoss", 12): spec((2, 3), D([0, 1]), (3,), n_outputs=2),
}

# --- types, creation, signals --------------------------------------------------------------------


def _same_width(types: dict[str, str], tested: str) -> None:
    """BitCast: the other type is the unsigned integer of the same width, if there is one."""
    other = "T2" if tested == "T1" else "T1"
    bits = {"bool": 8, "int2": 2, "uint2": 2, "int4": 4, "uint4": 4, "float4e2m1": 4}
    name = inner(types[tested])
    width = bits.get(name) or dtype_of(types[tested]).itemsize * 8
    types[other] = types[tested] if width > 64 or name.startswith("uint") else f"tensor(uint{width})"


_WINDOW = spec(D(4), output_datatype=number("T2"))


def _quantize(types: Types) -> tuple[Item, ...]:
    scale, zero_point = (types["T2"], types["T3"]) if "T3" in types else (types["T1"], types["T2"])
    return (2, 3), _scale(scale), _zero_point(zero_point)


def _dequantize(types: Types) -> tuple[Item, ...]:
    return (2, 3), _scale(types.get("T2", "tensor(float)")), _zero_point(types.get("T1", types.get("T", "")))


_FROM_TEXTS = D(["1", "-2.5", "1e3", "3", "NaN", "-INF"])


def _to_cast(types: Types) -> tuple[Item, ...]:
    """Numbers that the one type has to round, saturate or wrap for the other, as far as the text says how."""
    source, target = (inner(types[variable]) for variable in ("T1", "T2"))
    if "string" in (source, target):
        return (_FROM_TEXTS if source == "string" else D([1, 0, -2, 3, 100, -1]),)
    if "float8e8m0" in (source, target):
        return (D([1, 2, 4, 0.5, 3, 1.5]),)  # of which 3 and 1.5 lie halfway: up is the default
    if target == "bool":
        return (D([0.0, 1, 0.25, 2, 0.0, 3]),)
    if is_whole(types["T2"]):
        # Towards zero; beyond a type's limits the result is undefined.
        return (D([1.75, 0, 0.25, 1, 3.25 if target[0] == "u" else -1.5, 1]),)
    if is_whole(types["T1"]):
        bits = int(source.lstrip("uint"))
        top = 2 ** (bits - (source[0] != "u")) - 1
        return (D(np.array([1, 0, top, top - 1, -1 - top if source[0] != "u" else 1], object)),)
    if target.startswith(("float4", "float6")):
        return (D([0.4, -1.3, 2.9, 100, -0.1, 0]),)
    extremes = [] if source.startswith(("float4", "float6")) else [np.nan, np.inf, -np.inf]
    return (D([0.1, -2.7, 1e6, 300.5, -0.0, *extremes]),)


def _whole_for_text(types: dict[str, str], tested: str) -> None:
    """How a float becomes a text is left open in part, how an integer does is not."""
    if types["T2"] == "tensor(string)" and tested == "T2":
        types["T1"] = "tensor(int64)"


TYPES: dict[Key, Spec] = {
    **{(f"{name}Window", 17): _WINDOW for name in ("Blackman", "Hamming", "Hann")},
    **{(f"Random{name}", 1): spec(shape=[2, 3], dtype=number("T")) for name in ("Normal", "Uniform")},
    **{(f"Random{name}Like", 1): spec((2, 3), dtype=number("T2")) for name in ("Normal", "Uniform")},
    ("AffineGrid", 20): spec((2, 2, 3), D([2, 1, 2, 2])),
    ("Bernoulli", 15): spec(D([[1, 0, 1]] * 2), dtype=number("T2")),
    ("BitCast", 26): replace(spec((2, 3), to=number("T2")), link=_same_width),
    ("Cast", 1): Spec(_to_cast, {"to": _cast_name}, link=_whole_for_text),
    ("Cast", 6): Spec(_to_cast, {"to": number("T2")}, link=_whole_for_text),
    ("CastLike", 15): Spec(lambda types: (*_to_cast(types), (2, 3)), link=_whole_for_text),
    ("Constant", 1): spec(value=lambda types: one_tensor(types["T"], (2, 3))),
    ("ConstantOfShape", 9): spec(D([2, 3]), value=lambda types: one_tensor(types["T2"])),
    ("DFT", 17): spec((1, 4, 1), D(4)),
    ("DequantizeLinear", 10): Spec(_dequantize),
    ("DequantizeLinear", 23): Spec(_dequantize, {"output_dtype": number("T3")}),
    ("DynamicQuantizeLinear", 11): spec((2, 3), n_outputs=3),
    ("EyeLike", 9): spec((2, 3), dtype=number("T2")),
    ("MelWeightMatrix", 17): spec(D(1), D(8), D(8192), D(0), D(1800), output_datatype=number("T3")),
    # Everything but the second class is out of the question, so that nothing is left to chance.
    ("Multinomial", 7): spec(D([[-6e4, 0, -6e4]]), dtype=number("T2"), sample_size=2),
    ("QuantizeLinear", 10): Spec(_quantize),
    ("Range", 11): spec(D(1), D(5), D(2)),
    ("STFT", 17): spec((1, 8, 1), D(2), (4,), D(4)),
}

# --- moving elements -----------------------------------------------------------------------------


def _grid_mode(types: Types) -> str:
    # What is no number cannot be interpolated.
    return "nearest" if dtype_of(types["T1"]).kind in "bO" else "bilinear"


# Points on rows of pixels, on columns of them and between those.
_IMAGE_OF_4 = D(4 * np.arange(16).reshape(1, 1, 4, 4))
_GRID = D([[[[-0.625, -0.75], [0.25, 0.25]], [[-0.125, 0.75], [0.75, -0.25]]]])


def _has_no_sum(type_string: str) -> bool:
    return type_string in ("tensor(string)", "tensor(bool)")


def _columns(types: Types) -> tuple[Item, ...]:
    """An image of 3 x 3 has four blocks that overlap, one of 4 x 4 has four that do not."""
    size = 4 if _has_no_sum(types["T"]) else 3
    return (1, 4, 4), D([size, size]), D([2, 2])


# A PNG file with one pixel.
_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

MOVING: dict[Key, Spec] = {
    ("CenterCropPad", 18): spec((2, 3), D([3, 2])),
    ("Col2Im", 18): Spec(_columns, {"strides": lambda types: [2, 2] if _has_no_sum(types["T"]) else None}),
    ("Compress", 9): spec((2, 3), D([1, 0]), axis=0),
    ("Concat", 1): spec((2, 3), (2, 3), axis=0),
    ("DepthToSpace", 1): spec((1, 4, 2, 2), blocksize=2),
    ("ImageDecoder", 20): spec(D(list(_PIXEL))),
    ("Expand", 8): spec((2, 1), D([2, 3])),
    ("Gather", 1): spec((2, 3), D([0, 1])),
    ("GatherElements", 11): spec((2, 3), D([[0, 1, 0]])),
    ("GatherND", 11): spec((2, 3), D([[0, 1]])),
    ("GridSample", 16): spec(_IMAGE_OF_4, _GRID, mode=_grid_mode),
    ("GridSample", 20): spec(
        _IMAGE_OF_4, _GRID, mode=lambda types: _grid_mode(types).replace("bilinear", "linear")
    ),
    ("NonMaxSuppression", 10): spec((1, 2, 4), (1, 1, 2), D([1])),
    ("OneHot", 9): spec(D([0, 1]), D(3), D([0, 1])),
    ("Pad", 1): spec((2, 3), paddings=[0, 1, 0, 1]),
    ("Pad", 2): spec((2, 3), pads=[0, 1, 0, 1]),
    ("Pad", 11): spec((2, 3), D([0, 1, 0, 1]), ()),
    ("Pad", 18): spec((2, 3), D([0, 1, 0, 1]), (), D([0, 1])),
    ("Reshape", 1): spec((2, 3), shape=[3, 2]),
    ("Reshape", 5): spec((2, 3), D([3, 2])),
    ("Resize", 10): spec((1, 1, 2, 2), D([1, 1, 2, 2])),
    ("Resize", 11): spec((1, 1, 2, 2), D([0] * 8), D([1, 1, 2, 2])),
    ("ReverseSequence", 10): spec((2, 2), D([1, 2])),
    ("Scatter", 9): spec((2, 3), D([[0, 1, 0]]), (1, 3)),
    ("ScatterElements", 11): spec((2, 3), D([[0, 1, 0]]), (1, 3)),
    ("ScatterND", 11): spec((2, 3), D([[0]]), (1, 3)),
    ("Slice", 1): spec((2, 3), starts=[0], ends=[1]),
    ("Slice", 10): spec((2, 3), D([0]), D([1]), D([0]), D([1])),
    ("SpaceToDepth", 1): spec((1, 1, 2, 2), blocksize=2),
    ("Split", 1): spec((2, 3), n_outputs=2, axis=0),
    ("Split", 18): spec((2, 3), n_outputs=2, num_outputs=2),
    ("Squeeze", 1): spec((1, 3), axes=[0]),
    ("Squeeze", 13): spec((1, 3), D([0])),
    ("TensorScatter", 24): spec((1, 1, 4, 2), (1, 1, 2, 2), D([1])),
    ("TfIdfVectorizer", 9): spec(
        (3,),
        mode="TF",
        min_gram_length=1,
        max_gram_length=1,
        max_skip_count=0,
        ngram_counts=[0],
        ngram_indexes=[0, 1],
        pool_int64s=lambda types: None if types["T"] == "tensor(string)" else [0, 1],
        pool_strings=lambda types: ["0", "1"] if types["T"] == "tensor(string)" else None,
    ),
    ("Tile", 1): spec((2, 3), D(2), D(0)),
    ("Tile", 6): spec((2, 3), D([1, 2])),
    ("Trilu", 14): spec((2, 3), D(0)),
    # Complex numbers have no order but that of their occurrence.
    ("Unique", 11): spec(
        (2, 3), n_outputs=4, sorted=lambda types: 0 if dtype_of(types["T"]).kind == "c" else None
    ),
    ("Unsqueeze", 1): spec((2, 3), axes=[0]),
    ("Unsqueeze", 13): spec((2, 3), D([0])),
    ("Upsample", 1): spec((1, 1, 2, 2), height_scale=2.0, width_scale=2.0),
    ("Upsample", 7): spec((1, 1, 2, 2), scales=[1.0, 1.0, 2.0, 2.0]),
    ("Upsample", 9): spec((1, 1, 2, 2), D([1, 1, 2, 2])),
    ("StringNormalizer", 10): spec((2,)),
    ("StringSplit", 20): spec(D(["a bc", "", "d"]), n_outputs=2),
    ("RegexFullMatch", 20): spec((2, 3), pattern="1"),
}

# --- sequences, optionals, control flow ----------------------------------------------------------


def _sequence(types: dict[str, str], tested: str) -> None:
    if tested == "T":
        types["S"] = f"seq({types['T']})"
    elif "T" in types:
        types["T"] = inner(types["S"])


def _to_optional(types: dict[str, str], tested: str) -> None:
    if tested == "V":
        types["O"] = f"optional({types['V']})"
    else:
        types["V"] = inner(types["O"])


def _from_optional(types: dict[str, str], tested: str) -> None:
    if tested == "V":
        types["O"] = f"optional({types['V']})"
    else:
        optional = types["O"].startswith("optional(")
        types["V"] = inner(types["O"]) if optional else types["O"]


def _branch(types: Types) -> Any:
    return graph({}, {"x": types["V"]})


def _loop_body(types: Types) -> Any:
    taken = {"i": "tensor(int64)", "more": "tensor(bool)", "v": types["V"]}
    return graph(taken, {"more": "tensor(bool)", "v": types["V"]})


def _scan_body(types: Types) -> Any:
    both = {"state": types["V"], "x": types["V"]}
    return graph(both, both)


def _map_body(types: Types) -> Any:
    other = inner(types["V"]) if types["V"].startswith("seq(") else types["V"]
    return graph({"a": inner(types["S"]), "b": other}, {"a": inner(types["S"])})


_SCAN = Spec(((3,), (2, 3)), {"body": _scan_body, "num_scan_inputs": 1}, n_outputs=2)

CONTROL: dict[Key, Spec] = {
    ("ConcatFromSequence", 11): Spec(((2, 3),), {"axis": 0}, link=_sequence),
    ("If", 1): Spec(
        (D(True),),
        {"then_branch": _branch, "else_branch": _branch},
        captured=lambda types: {"x": types["V"]},
    ),
    ("Loop", 1): Spec((D(2), D(True), (2, 3)), {"body": _loop_body}),
    ("Optional", 15): Spec(((2, 3),), link=_to_optional),
    ("OptionalGetElement", 15): Spec(((2, 3),), link=_from_optional),
    ("OptionalHasElement", 15): Spec(((2, 3),)),
    ("Scan", 8): replace(_SCAN, inputs=(D([2]), (1, 3), (1, 2, 3))),
    ("Scan", 9): _SCAN,
    ("SequenceAt", 11): Spec(((2, 3), D(0)), link=_sequence),
    ("SequenceConstruct", 11): Spec(((2, 3), (2, 3)), link=_sequence),
    ("SequenceEmpty", 11): spec(dtype=lambda types: number_of(inner(types["S"]))),
    ("SequenceErase", 11): Spec(((2, 3), D(0))),
    ("SequenceInsert", 11): Spec(((2, 3), (2, 3), D(0)), link=_sequence),
    ("SequenceLength", 11): Spec(((2, 3),)),
    ("SequenceMap", 17): Spec(((2, 3), (2, 3)), {"body": _map_body}),
    ("SplitToSequence", 11): Spec(((2, 3), D([1, 1])), link=_sequence),
}

SPECS: dict[tuple[str, str, int], Spec] = {
    **{("", *key): made for part in (MATH, NEURAL, TYPES, MOVING, CONTROL) for key, made in part.items()},
}
for key in [k for k in SPECS if k[1] == "FlexAttention"]:
    SPECS[(PREVIEW, *key[1:])] = SPECS.pop(key)
SPECS |= {(ML, *key): made for key, made in MACHINE_LEARNING.items()}
SPECS |= {(TRAINING, *key): made for key, made in LEARNING.items()}


@dataclass(frozen=True)
class Impossible:
    """Cells that no node can have, and why."""

    domain: str
    op_type: str
    variable: str
    types: tuple[str, ...]
    reason: str
    since: tuple[int, ...] = ()

    def covers(self, schema: OpSchema, variable: str, allowed: str) -> bool:
        """Whether a cell is one of these."""
        return (
            (schema.domain, schema.name, variable) == (self.domain, self.op_type, self.variable)
            and allowed in self.types
            and (not self.since or schema.since_version in self.since)
        )


IMPOSSIBLE = [
    Impossible("", "Tile", "T1", ("tensor(int64)",), "no input or output has this variable", since=(1,)),
]
