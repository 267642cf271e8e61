"""Specs for the suite `types`: for every operator, the smallest call that its schemas allow.

An operator without an entry is called with its required inputs, of shape (2, 3), and no attributes.
An entry holds from its version up to the next one.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Any

from onnx.defs import OpSchema

from ._type_cases_ml import LEARNING, MACHINE_LEARNING
from ._type_specs import D, Spec, Types, dtype_of, graph, inner, number, number_of, one_tensor, spec

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

MATH: dict[Key, Spec] = {
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
    ("Mod", 10): spec(
        (2, 3), D([[1, 1, 1]] * 2), fmod=lambda types: int(dtype_of(types["T"]).kind not in "iu")
    ),
    ("Pow", 1): spec((2, 3), D([[1, 2, 0]] * 2)),
    ("QLinearMatMul", 10): spec((2, 3), D(1), D(0), (3, 2), D(1), D(0), D(1), D(0)),
    ("TopK", 1): spec((2, 3), k=2, n_outputs=2),
    ("TopK", 10): spec((2, 3), D([2]), n_outputs=2),
}

# --- neural networks -----------------------------------------------------------------------------

_NORM = ((1, 2, 3), *((2,),) * 4)
_POOLED = spec((1, 1, 4, 4), kernel_shape=[2, 2])
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
    ("DeformConv", 19): spec((1, 1, 3, 3), (1, 1, 2, 2), (1, 8, 2, 2), (1,), (1, 4, 2, 2)),
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
    ("QLinearConv", 10): spec((1, 1, 3, 3), D(1), D(0), (1, 1, 2, 2), D(1), D(0), D(1), D(0), (1,)),
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
_QUANTIZE = spec((2, 3), D(1), D(0))

TYPES: dict[Key, Spec] = {
    **{(f"{name}Window", 17): _WINDOW for name in ("Blackman", "Hamming", "Hann")},
    **{(f"Random{name}", 1): spec(shape=[2, 3], dtype=number("T")) for name in ("Normal", "Uniform")},
    **{(f"Random{name}Like", 1): spec((2, 3), dtype=number("T2")) for name in ("Normal", "Uniform")},
    ("AffineGrid", 20): spec((2, 2, 3), D([2, 1, 2, 2])),
    ("Bernoulli", 15): spec(D([[1, 0, 1]] * 2), dtype=number("T2")),
    ("BitCast", 26): replace(spec((2, 3), to=number("T2")), link=_same_width),
    ("Cast", 1): spec(_SMALL, to=_cast_name),
    ("Cast", 6): spec(_SMALL, to=number("T2")),
    ("CastLike", 15): spec(_SMALL, (2, 3)),
    ("Constant", 1): spec(value=lambda types: one_tensor(types["T"], (2, 3))),
    ("ConstantOfShape", 9): spec(D([2, 3]), value=lambda types: one_tensor(types["T2"])),
    ("DFT", 17): spec((1, 4, 1), D(4)),
    ("DequantizeLinear", 10): _QUANTIZE,
    ("DequantizeLinear", 23): replace(_QUANTIZE, attributes={"output_dtype": number("T3")}),
    ("DynamicQuantizeLinear", 11): spec((2, 3), n_outputs=3),
    ("EyeLike", 9): spec((2, 3), dtype=number("T2")),
    ("MelWeightMatrix", 17): spec(D(4), D(16), D(8192), D(0), D(4000), output_datatype=number("T3")),
    ("Multinomial", 7): spec((1, 3), dtype=number("T2"), sample_size=2),
    ("QuantizeLinear", 10): _QUANTIZE,
    ("Range", 11): spec(D(1), D(5), D(2)),
    ("STFT", 17): spec((1, 8, 1), D(2), (4,), D(4)),
}

# --- moving elements -----------------------------------------------------------------------------


def _grid_mode(types: Types) -> str:
    # What is no number cannot be interpolated.
    return "nearest" if dtype_of(types["T1"]).kind in "bO" else "bilinear"


# A PNG file with one pixel.
_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

MOVING: dict[Key, Spec] = {
    ("CenterCropPad", 18): spec((2, 3), D([3, 2])),
    ("Col2Im", 18): spec((1, 4, 4), D([3, 3]), D([2, 2])),
    ("Compress", 9): spec((2, 3), D([1, 0]), axis=0),
    ("Concat", 1): spec((2, 3), (2, 3), axis=0),
    ("DepthToSpace", 1): spec((1, 4, 2, 2), blocksize=2),
    ("ImageDecoder", 20): spec(D(list(_PIXEL))),
    ("Expand", 8): spec((2, 1), D([2, 3])),
    ("Gather", 1): spec((2, 3), D([0, 1])),
    ("GatherElements", 11): spec((2, 3), D([[0, 1, 0]])),
    ("GatherND", 11): spec((2, 3), D([[0, 1]])),
    ("GridSample", 16): spec((1, 1, 3, 3), (1, 2, 2, 2), mode=_grid_mode),
    ("GridSample", 20): spec(
        (1, 1, 3, 3), (1, 2, 2, 2), mode=lambda types: _grid_mode(types).replace("bilinear", "linear")
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
    ("Unique", 11): spec((2, 3), n_outputs=4),
    ("Unsqueeze", 1): spec((2, 3), axes=[0]),
    ("Unsqueeze", 13): spec((2, 3), D([0])),
    ("Upsample", 1): spec((1, 1, 2, 2), height_scale=2.0, width_scale=2.0),
    ("Upsample", 7): spec((1, 1, 2, 2), scales=[1.0, 1.0, 2.0, 2.0]),
    ("Upsample", 9): spec((1, 1, 2, 2), D([1, 1, 2, 2])),
    ("StringNormalizer", 10): spec((2,)),
    ("StringSplit", 20): spec((2, 3), n_outputs=2),
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
