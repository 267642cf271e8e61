"""Strategies for single nodes: from the schema alone, or by a rule where inputs need structure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import assume
from hypothesis import strategies as st
from onnx import helper
from onnx.defs import OpSchema

from ._fuzz_learning import DOMAIN as ML
from ._fuzz_learning import RULES as LEARNING
from ._fuzz_pen import Pen, Rule
from ._fuzz_structured import RULES as STRUCTURED
from ._fuzz_values import (
    DTYPES,
    LONG,
    Array,
    Draw,
    axes_of,
    broadcastable,
    indices,
    several_axes,
    shapes,
)

ML_OPSET = 3  # the newest that all of the operators of `_fuzz_learning.py` have, with lists as attributes

# Models of several nodes, because their inputs are no tensors: see `_fuzz_models.py`.
SEQUENCES = ("ConcatFromSequence", "SequenceAt", "SequenceErase", "SequenceInsert", "SplitToSequence")

# Their results are drawn, or they do nothing that can be compared from outside.
RANDOM = frozenset(
    [
        "Bernoulli",
        "Dropout",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    ]
)


@dataclass(slots=True)
class Node:
    """One node and the values of its inputs; None where an optional input is left out.

    Attributes:
        types: the type that the schema gives each output, "" where the inputs do not decide.
    """

    schema: OpSchema
    inputs: list[Array | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    types: tuple[str, ...] = ("",)

    @property
    def outputs(self) -> int:
        return len(self.types)


# Attributes that the schema leaves open; a rule's own attributes come on top.
_CHOICES: dict[str, tuple[Any, ...]] = {
    "alpha": (1.0, 0.0, -0.5, 2.0),
    "beta": (1.0, 0.0, 0.5),
    "bias": (0.0, 1.0, -0.5),
    "lambd": (0.5, 0.0, 1.5),
    "gamma": (1.0, 0.0, 2.0),
    "epsilon": (1e-5, 0.0, 0.5),
    "approximate": ("none", "tanh"),
    "direction": ("RIGHT", "LEFT"),
    "round_mode": ("up", "down", "nearest"),
    "delimiter": (" ", "a"),
    "maxsplit": (0, 1, 2),
}
_FLAGS = frozenset(
    [
        "keepdims",
        "select_last_index",
        "noop_with_empty_axes",
        "detect_negative",
        "detect_positive",
        "reverse",
        "exclusive",
        "periodic",
        "transA",
        "transB",
        "upper",
        "sorted",
        "largest",
    ]
)


def operators(opset: int) -> list[str]:
    """Return the operators that can be generated at an opset of ai.onnx, those of ai.onnx.ml at the end."""
    names = sorted({schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain})
    found = [name for name in (*names, *LEARNING) if _can_generate(name, opset)]
    return found + [name for name in SEQUENCES if schema_of(name, opset)]


def domain_of(name: str) -> str:
    """Return the domain of an operator's name."""
    return ML if name in LEARNING else ""


def schema_of(name: str, opset: int) -> OpSchema | None:
    """Return the schema in force at an opset; None where there is none."""
    domain = domain_of(name)
    try:
        schema = onnx.defs.get_schema(name, ML_OPSET if domain else opset, domain)
    except onnx.defs.SchemaError:
        return None
    return None if schema.deprecated else schema


def _can_generate(name: str, opset: int) -> bool:
    schema = schema_of(name, opset)
    if schema is None or name in RANDOM or not schema.inputs:
        return False
    if not all(_allowed(schema, formal.type_str) for formal in (*schema.inputs, *schema.outputs)):
        return False
    open_attributes = schema.attributes.keys() - _CHOICES.keys() - _FLAGS - {"axis"}
    return name in RULES or not open_attributes


def _allowed(schema: OpSchema, variable: str) -> list[str]:
    for constraint in schema.type_constraints:
        if constraint.type_param_str == variable:
            return [name for name in DTYPES if name in constraint.allowed_type_strs]
    return [variable] if variable in DTYPES else []


@st.composite
def nodes(draw: Draw, name: str, opset: int) -> Node:
    """Draw a node of an operator."""
    schema = schema_of(name, opset)
    assert schema is not None
    variables = dict.fromkeys(formal.type_str for formal in schema.inputs)
    types = {variable: draw(st.sampled_from(_allowed(schema, variable))) for variable in variables}
    pen = Pen(draw, schema, types)
    inputs, attributes = RULES.get(name, _plain)(pen)
    while inputs and inputs[-1] is None:
        inputs.pop()
    outputs = max(attributes.pop("outputs", 1), schema.min_output)
    for key in sorted(schema.attributes.keys() - attributes.keys()):
        if key in _CHOICES and draw(st.booleans()):
            attributes[key] = pen.pick(*_CHOICES[key])
        elif key in _FLAGS and draw(st.booleans()):
            attributes[key] = pen.pick(0, 1)
        elif key == "axis" and name not in RULES:
            rank = 0 if inputs[0] is None else inputs[0].ndim
            assume(rank > 0)
            if schema.attributes[key].required or draw(st.booleans()):
                attributes[key] = draw(axes_of(rank))
    last = len(schema.outputs) - 1
    names = [schema.outputs[min(index, last)].type_str for index in range(outputs)]
    found = [types.get(name, name) for name in names]
    return Node(schema, inputs, attributes, tuple(name if name in DTYPES else "" for name in found))


def _plain(pen: Pen) -> tuple[list[Array | None], dict[str, Any]]:
    """Inputs that broadcast to one shape."""
    whole = pen.draw(shapes())
    inputs: list[Array | None] = []
    for index, formal in enumerate(pen.schema.inputs):
        shape = pen.draw(broadcastable(whole)) if index else whole
        if formal.option == OpSchema.FormalParameterOption.Variadic:
            inputs += [pen.array(index, pen.draw(broadcastable(whole))) for _ in range(pen.pick(1, 2, 3))]
        elif formal.option == OpSchema.FormalParameterOption.Optional:
            inputs.append(pen.maybe(index, shape))
        else:
            inputs.append(pen.array(index, shape))
    return inputs, {}


def _one(pen: Pen, low: int = 1, high: int = 4, smallest: int = 0) -> Array:
    return pen.array(0, pen.draw(shapes(low, high, smallest=smallest)))


def _reduce(pen: Pen) -> Any:
    data = _one(pen, low=0)
    axes = None
    if pen.draw(st.booleans()):
        axes = np.array(pen.draw(several_axes(data.ndim)), np.int64)
    return [data, axes], {}


def _clip(pen: Pen) -> Any:
    return [_one(pen, low=0), pen.maybe(1, ()), pen.maybe(2, ())], {}


def _matmul(pen: Pen) -> Any:
    m, k, n = (pen.pick(2, 1, 3, 0, *LONG) for _ in range(3))
    batch = pen.draw(shapes(0, 2))
    left, right = (pen.draw(broadcastable(batch)) for _ in range(2))
    a = (k,) if pen.draw(st.booleans()) else (*left, m, k)
    b = (k,) if pen.draw(st.booleans()) else (*right, k, n)
    return [pen.array(0, a), pen.array(1, b)], {}


def _gemm(pen: Pen) -> Any:
    m, k, n = (pen.pick(2, 1, 3, 0, *LONG) for _ in range(3))
    flags = {"transA": pen.pick(0, 1), "transB": pen.pick(0, 1)}
    a = (k, m) if flags["transA"] else (m, k)
    b = (n, k) if flags["transB"] else (k, n)
    return [pen.array(0, a), pen.array(1, b), pen.maybe(2, pen.draw(broadcastable((m, n))))], flags


def _spatial(pen: Pen, kernel: list[int]) -> dict[str, Any]:
    """Strides, dilations and padding for a kernel; padding stays below the kernel's size."""
    count = len(kernel)
    made: dict[str, Any] = {"kernel_shape": kernel}
    if pen.draw(st.booleans()):
        made["strides"] = [pen.pick(1, 2, 3) for _ in kernel]
    if pen.draw(st.booleans()):
        made["dilations"] = [pen.pick(1, 2) for _ in kernel]
    mode = pen.pick("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    if mode != "NOTSET":
        made["auto_pad"] = mode
    elif pen.draw(st.booleans()):
        made["pads"] = [pen.draw(st.integers(0, kernel[i % count] - 1)) for i in range(2 * count)]
    return made


def _conv(pen: Pen) -> Any:
    space = [pen.pick(3, 5, 4, 1, 9) for _ in range(pen.pick(1, 2))]
    kernel = [pen.pick(1, 2, 3) for _ in space]
    group, per, out = pen.pick(1, 2), pen.pick(1, 2, 16, 17), pen.pick(1, 2, 16, 17)
    x = pen.array(0, (pen.pick(1, 2, 0), group * per, *space))
    w = pen.array(1, (group * out, per, *kernel))
    return [x, w, pen.maybe(2, (group * out,))], _spatial(pen, kernel) | {"group": group}


def _conv_transpose(pen: Pen) -> Any:
    space = [pen.pick(2, 3, 1) for _ in range(pen.pick(1, 2))]
    kernel = [pen.pick(1, 2, 3) for _ in space]
    group, per, out = pen.pick(1, 2), pen.pick(1, 2), pen.pick(1, 2)
    x = pen.array(0, (1, group * per, *space))
    w = pen.array(1, (group * per, out, *kernel))
    return [x, w, pen.maybe(2, (group * out,))], _spatial(pen, kernel) | {"group": group}


def _pool(pen: Pen) -> Any:
    space = [pen.pick(4, 3, 5, 1, 18) for _ in range(pen.pick(1, 2))]
    made = _spatial(pen, [pen.pick(2, 1, 3) for _ in space])
    if pen.draw(st.booleans()):
        made["ceil_mode"] = 1
    if "count_include_pad" in pen.schema.attributes:
        made["count_include_pad"] = pen.pick(0, 1)
    if "p" in pen.schema.attributes:
        made["p"] = pen.pick(2, 1, 3)
    return [pen.array(0, (1, pen.pick(1, 2, 16, 17), *space))], made


def _concat(pen: Pen) -> Any:
    shape = pen.draw(shapes(1, 3))
    axis = pen.draw(axes_of(len(shape)))
    inputs = []
    for _ in range(pen.pick(1, 2, 3)):
        sizes = list(shape)
        sizes[axis] = pen.pick(1, 2, 0)
        inputs.append(pen.array(0, tuple(sizes)))
    return inputs, {"axis": axis}


def _transpose(pen: Pen) -> Any:
    data = _one(pen, low=0)
    if not data.ndim or pen.draw(st.booleans()):
        return [data], {}
    return [data], {"perm": list(pen.draw(st.permutations(range(data.ndim))))}


def _reshape(pen: Pen) -> Any:
    data = _one(pen, low=0)
    target = list(data.shape)
    target = target[::-1] if pen.draw(st.booleans()) else [data.size, 1]
    if pen.draw(st.booleans()) and target:
        target[pen.draw(axes_of(len(target)))] = -1
    return [data, np.array(target, np.int64)], {"allowzero": pen.pick(0, 1)}


def _expand(pen: Pen) -> Any:
    whole = pen.draw(shapes())
    return [pen.array(0, pen.draw(broadcastable(whole))), np.array(whole, np.int64)], {}


def _tile(pen: Pen) -> Any:
    data = _one(pen, low=0, high=3)
    return [data, np.array([pen.pick(1, 2, 0) for _ in data.shape], np.int64)], {}


def _slice(pen: Pen) -> Any:
    data = _one(pen)
    axes = pen.draw(several_axes(data.ndim))
    bound = st.one_of(st.integers(-5, 5), st.sampled_from((2**31 - 1, -(2**31))))
    dtype = pen.dtype(1)
    starts, ends = ([pen.draw(bound) for _ in axes] for _ in range(2))
    steps = [pen.pick(1, 2, -1, -2) for _ in axes]
    return [data, *(np.array(values, dtype) for values in (starts, ends, axes, steps))], {}


def _squeeze(pen: Pen) -> Any:
    data = _one(pen, low=0)
    ones = [i for i, size in enumerate(data.shape) if size == 1]
    axes = np.array(ones, np.int64) if pen.draw(st.booleans()) else None
    return [data, axes], {}


def _unsqueeze(pen: Pen) -> Any:
    data = _one(pen, low=0, high=3)
    return [data, np.array([pen.draw(axes_of(data.ndim + 1))], np.int64)], {}


def _gather(pen: Pen) -> Any:
    data = _one(pen)
    axis = pen.draw(axes_of(data.ndim))
    assume(data.shape[axis])
    chosen = pen.draw(indices(pen.draw(shapes(0, 2)), data.shape[axis]))
    return [data, chosen.astype(pen.dtype(1))], {"axis": axis}


def _gather_elements(pen: Pen) -> Any:
    data = _one(pen, smallest=1)
    axis = pen.draw(axes_of(data.ndim))
    shape = tuple(pen.draw(st.integers(0, size)) for size in data.shape)
    return [data, pen.draw(indices(shape, data.shape[axis])).astype(pen.dtype(1))], {"axis": axis}


def _scatter_elements(pen: Pen) -> Any:
    (data, chosen), attributes = _gather_elements(pen)
    attributes["reduction"] = pen.pick("none", "add", "mul", "max", "min")
    if attributes["reduction"] == "none":  # with duplicates the result is the implementation's choice
        assume(chosen.shape[attributes["axis"]] <= 1)
    return [data, chosen, pen.array(2, chosen.shape)], attributes


def _pad(pen: Pen) -> Any:
    data = _one(pen)
    mode = pen.pick("constant", "edge", "reflect", "wrap")
    low = -1 if mode == "constant" else 0
    pads = [pen.draw(st.integers(low, 2)) for _ in range(2 * data.ndim)]
    return [data, np.array(pads, np.int64), pen.maybe(2, ())], {"mode": mode}


def _cumsum(pen: Pen) -> Any:
    data = _one(pen)
    return [data, np.array(pen.draw(axes_of(data.ndim)), pen.dtype(1))], {}


def _topk(pen: Pen) -> Any:
    data = _one(pen)
    axis = pen.draw(axes_of(data.ndim))
    k = np.array([pen.draw(st.integers(0, data.shape[axis]))], np.int64)
    return [data, k], {"axis": axis, "sorted": 1, "outputs": 2}


def _layer_norm(pen: Pen) -> Any:
    data = _one(pen, smallest=1)
    axis = pen.draw(axes_of(data.ndim))
    rest = data.shape[axis:]
    optional = [pen.maybe(2, rest)] if len(pen.schema.inputs) > 2 else []
    return [data, pen.array(1, rest), *optional], {"axis": axis}


def _batch_norm(pen: Pen) -> Any:
    data = _one(pen, low=2)
    channels = (data.shape[1],)
    variance = np.abs(pen.array(4, channels, tame=True))
    return [data, *(pen.array(i, channels) for i in (1, 2, 3)), variance], {}


def _instance_norm(pen: Pen) -> Any:
    data = _one(pen, low=3, smallest=1)
    return [data, *(pen.array(i, (data.shape[1],)) for i in (1, 2))], {}


def _quantize(pen: Pen) -> Any:
    scale = np.array(pen.pick(1.0, 0.5, 0.1, 4.0), pen.dtype(1))
    return [_one(pen, low=0), scale, pen.maybe(2, ())], {}


def _cast(pen: Pen) -> Any:
    target = pen.pick(*(name for name in DTYPES if name != "tensor(string)"))
    assume(pen.types[pen.schema.inputs[0].type_str] != "tensor(string)")
    return [_one(pen, low=0)], {"to": helper.np_dtype_to_tensor_dtype(DTYPES[target])}


def _range(pen: Pen) -> Any:
    dtype = pen.dtype(0)
    low = 0 if dtype.kind == "u" else -5
    start, limit = (np.array(pen.draw(st.integers(max(low, 0) if low == 0 else low, 9)), dtype) for _ in "ab")
    return [start, limit, np.array(pen.pick(1, 2, 3) * (1 if low == 0 else pen.pick(1, -1)), dtype)], {}


def _trilu(pen: Pen) -> Any:
    k = np.array(pen.pick(0, 1, -1, 5, -5), np.int64) if pen.draw(st.booleans()) else None
    return [_one(pen, low=2), k], {}


def _depth_to_space(pen: Pen) -> Any:
    block = pen.pick(1, 2)
    shape = (pen.pick(1, 2, 0), 4, 2, 4)
    return [pen.array(0, shape)], {"blocksize": block} | (
        {"mode": pen.pick("DCR", "CRD")} if "mode" in pen.schema.attributes else {}
    )


def _mod(pen: Pen) -> Any:
    inputs, _ = _plain(pen)
    return inputs, {"fmod": 1 if pen.dtype(0).kind not in "iu" else pen.pick(0, 1)}


def _lrn(pen: Pen) -> Any:
    return [_one(pen, low=3)], {"size": pen.pick(1, 3, 5)}


def _split(pen: Pen) -> Any:
    data = _one(pen)
    axis = pen.draw(axes_of(data.ndim))
    first = pen.draw(st.integers(0, data.shape[axis]))
    sizes = np.array([first, data.shape[axis] - first], np.int64)
    return [data, sizes], {"axis": axis, "outputs": 2}


def _same_rank(pen: Pen) -> Any:
    return [_one(pen, low=3)], {}


def _matrix(pen: Pen) -> Any:
    size = pen.pick(2, 1, 3)
    return [pen.array(0, (*pen.draw(shapes(0, 1)), size, size), tame=True)], {}


def _matmul_integer(pen: Pen) -> Any:
    inputs, _ = _matmul(pen)
    return [*inputs, pen.maybe(2, ()), pen.maybe(3, ())], {}


RULES: dict[str, Rule] = (
    LEARNING
    | STRUCTURED
    | dict.fromkeys(
        [
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSum",
            "ReduceLogSumExp",
            "ReduceMax",
            "ReduceMean",
            "ReduceMin",
            "ReduceProd",
            "ReduceSum",
            "ReduceSumSquare",
        ],
        _reduce,
    )
    | {
        "AveragePool": _pool,
        "BatchNormalization": _batch_norm,
        "Cast": _cast,
        "Clip": _clip,
        "Concat": _concat,
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "CumSum": _cumsum,
        "DepthToSpace": _depth_to_space,
        "DequantizeLinear": _quantize,
        "Det": _matrix,
        "Expand": _expand,
        "Gather": _gather,
        "GatherElements": _gather_elements,
        "Gemm": _gemm,
        "GlobalAveragePool": _same_rank,
        "GlobalMaxPool": _same_rank,
        "InstanceNormalization": _instance_norm,
        "LRN": _lrn,
        "LayerNormalization": _layer_norm,
        "LpPool": _pool,
        "MatMul": _matmul,
        "MatMulInteger": _matmul_integer,
        "MaxPool": _pool,
        "Mod": _mod,
        "Pad": _pad,
        "QuantizeLinear": _quantize,
        "RMSNormalization": _layer_norm,
        "Range": _range,
        "Reshape": _reshape,
        "ScatterElements": _scatter_elements,
        "Slice": _slice,
        "SpaceToDepth": _depth_to_space,
        "Split": _split,
        "Squeeze": _squeeze,
        "Tile": _tile,
        "TopK": _topk,
        "Transpose": _transpose,
        "Trilu": _trilu,
        "Unsqueeze": _unsqueeze,
    }
)
