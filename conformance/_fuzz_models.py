"""Models of what was drawn: one node, a chain of nodes, and the same with the node's function body."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from hypothesis import assume
from hypothesis import strategies as st
from onnx import helper

from ._fuzz_known import known_disagreements
from ._fuzz_learning import DOMAIN as ML
from ._fuzz_operators import (
    ML_OPSET,
    RULES,
    SEQUENCES,
    Node,
    domain_of,
    nodes,
    operators,
    schema_of,
)
from ._fuzz_values import DTYPES, Array, Draw, arrays
from .cases import Case, DataSet
from .values import encode

BODY_DOMAIN = "function.bodies"
CHAIN = "chain"  # stands for an operator's name where several are put together
IR_VERSION = 10


@dataclass(frozen=True, slots=True)
class Trial:
    """A model with its inputs, ready for any backend.

    Attributes:
        operator: of the node, or `chain`.
        body: the same model with the node replaced by its function body; None where there is none.
    """

    operator: str
    opset: int
    model: onnx.ModelProto
    inputs: tuple[Array, ...]
    body: onnx.ModelProto | None = None

    def case(self, name: str, model: onnx.ModelProto | None = None) -> Case:
        """Return the trial as a case without expectations."""
        declared = self.model.graph.input
        data = tuple(encode(v, info.type) for v, info in zip(self.inputs, declared, strict=True))
        return Case(
            suite="fuzz",
            group="node",
            name=name,
            operator="" if self.operator == CHAIN else self.operator,
            opset=self.opset,
            model=(model or self.model).SerializeToString(deterministic=True),
            data_sets=(DataSet(data, ()),),
        )


@st.composite
def trials(draw: Draw, operator: str, opset: int) -> Trial:
    """Draw a trial of an operator, or of a chain of operators."""
    if operator == CHAIN:
        return draw(_chains(opset))  # type: ignore[no-any-return]
    if operator in SEQUENCES:
        return draw(_sequences(operator, opset))  # type: ignore[no-any-return]
    node = draw(nodes(operator, opset))
    names = [f"x{index}" if value is not None else "" for index, value in enumerate(node.inputs)]
    outputs = [f"y{index}" for index in range(node.outputs)]
    proto = helper.make_node(operator, names, outputs, domain=domain_of(operator), **node.attributes)
    feeds = {name: value for name, value in zip(names, node.inputs, strict=True) if value is not None}
    model = _model([proto], feeds, outputs, opset, node.types)
    return Trial(operator, opset, model, tuple(feeds.values()), _body_model(node, proto, model, opset))


def _model(
    protos: list[onnx.NodeProto],
    feeds: dict[str, Array],
    outputs: list[str],
    opset: int,
    types: tuple[str, ...] = (),
) -> onnx.ModelProto:
    """Return the model with its inferred types, those of `types` where onnx cannot infer any.

    An output of which neither tells the type ends the example.
    """
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    declared = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph(protos, "fuzz", infos, declared)
    imports = [helper.make_opsetid("", opset)]
    if any(proto.domain == ML for proto in protos):
        imports.append(helper.make_opsetid(ML, ML_OPSET))
    model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
    try:
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    except onnx.shape_inference.InferenceError:
        assume(False)
    for info, type_string in zip(model.graph.output, types, strict=False):
        if type_string and not _is_known(info.type):
            info.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(DTYPES[type_string])
    assume(all(_is_known(info.type) for info in model.graph.output))
    return model


def _is_known(declared: onnx.TypeProto) -> bool:
    if declared.HasField("sequence_type"):
        return _is_known(declared.sequence_type.elem_type)
    return bool(declared.tensor_type.elem_type)


def _body_model(
    node: Node, proto: onnx.NodeProto, model: onnx.ModelProto, opset: int
) -> onnx.ModelProto | None:
    """Return the model with the node's function body in the node's place, as a local function."""
    function = _body(node.schema, proto, model, opset)
    if function is None:
        return None
    function.domain = BODY_DOMAIN
    del function.output[len(proto.output) :]  # the body for this node need not make the others
    made = onnx.ModelProto()
    made.CopyFrom(model)
    call = made.graph.node[0]
    call.domain = BODY_DOMAIN
    given = {attribute.name for attribute in proto.attribute}
    defaults = [
        a.default_value
        for name, a in node.schema.attributes.items()
        if a.default_value.name and name not in given
    ]
    del call.attribute[:]
    call.attribute.extend(a for a in [*proto.attribute, *defaults] if a.name in function.attribute)
    made.functions.append(function)
    made.opset_import.append(helper.make_opsetid(BODY_DOMAIN, 1))
    return made


def _body(schema: Any, proto: onnx.NodeProto, model: onnx.ModelProto, opset: int) -> Any:
    # The stubs of OpSchema leave out what concerns function bodies.
    plain = [v for v in schema.function_opset_versions if v <= opset]
    built = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
    if schema.has_function and plain:
        data: bytes = schema.get_function_with_opset_version(max(plain))
    elif built:
        types = {info.name: info.type.SerializeToString() for info in model.graph.input}
        data = schema.get_context_dependent_function_with_opset_version(
            max(built), proto.SerializeToString(), [types.get(name, b"") for name in proto.input]
        )
    else:
        return None
    return onnx.FunctionProto.FromString(data) if data else None


@st.composite
def _sequences(draw: Draw, operator: str, opset: int) -> Trial:
    """Draw tensors, make a sequence of them and do one thing with it."""
    dtype = DTYPES[draw(st.sampled_from(list(DTYPES)))]
    shape = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple))
    if operator == "SplitToSequence":
        return _split_trial(draw, draw(arrays(dtype, shape)), opset)
    count = draw(st.integers(1, 3))
    feeds = {f"x{i}": draw(arrays(dtype, shape)) for i in range(count)}
    protos = [helper.make_node("SequenceConstruct", list(feeds), ["s"])]
    names, attributes = ["s"], {}
    if operator == "ConcatFromSequence":
        new = draw(st.integers(0, 1))
        rank = len(shape) + new
        attributes = {"axis": draw(st.integers(-rank, rank - 1)), "new_axis": new}
    elif operator == "SequenceInsert":
        feeds["x"] = draw(arrays(dtype, shape))
        names.append("x")
    if operator != "ConcatFromSequence" and (operator == "SequenceAt" or draw(st.booleans())):
        last = count if operator == "SequenceInsert" else count - 1
        feeds["at"] = np.array(draw(st.integers(-count, last)), np.int64)
        names.append("at")
    protos.append(helper.make_node(operator, names, ["y0"], **attributes))
    return Trial(operator, opset, _model(protos, feeds, ["y0"], opset), tuple(feeds.values()))


def _split_trial(draw: Draw, data: Array, opset: int) -> Trial:
    axis = draw(st.integers(-data.ndim, data.ndim - 1))
    assume(data.shape[axis])
    feeds, attributes = {"x0": data}, {"axis": axis}
    size = data.shape[axis]
    match draw(st.sampled_from(("none", "each", "sizes"))):
        case "none":
            attributes["keepdims"] = draw(st.integers(0, 1))
        case "each":
            feeds["split"] = np.array(draw(st.integers(1, size)), np.int64)
        case "sizes":
            first = draw(st.integers(0, size))
            feeds["split"] = np.array([first, size - first], np.int64)
    node = helper.make_node("SplitToSequence", list(feeds), ["y0"], **attributes)
    return Trial("SplitToSequence", opset, _model([node], feeds, ["y0"], opset), tuple(feeds.values()))


@st.composite
def _chains(draw: Draw, opset: int) -> Trial:
    """Draw two to four nodes, each fed with the result of the one before it."""
    type_string = draw(st.sampled_from([name for name in DTYPES if name != "tensor(string)"]))
    shape = draw(st.lists(st.integers(0, 3), max_size=3).map(tuple))
    feeds = {"x0": draw(arrays(DTYPES[type_string], shape))}
    protos: list[onnx.NodeProto] = []
    for index in range(draw(st.integers(2, 4))):
        links = list(_links(type_string, opset))
        assume(links)
        operator, count, result = draw(st.sampled_from(links))
        names = [f"t{index - 1}" if index else "x0"]
        if count == 2:
            names.append(f"x{len(feeds)}")
            feeds[names[1]] = draw(arrays(DTYPES[type_string], ()))
        protos.append(helper.make_node(operator, names, [f"t{index}"]))
        type_string = result
    model = _model(protos, feeds, [f"t{len(protos) - 1}"], opset)
    return Trial(CHAIN, opset, model, tuple(feeds.values()))


def _links(type_string: str, opset: int) -> Iterator[tuple[str, int, str]]:
    """Yield the operators that go on from a type: name, number of inputs, type of the result."""
    # In a chain the known disagreements of one operator would hide everything else.
    known = {entry.operator for entry in known_disagreements()}
    for name in operators(opset):
        schema = schema_of(name, opset)
        if schema is None or name in RULES or name in known or not 1 <= len(schema.inputs) <= 2:
            continue
        first, output = schema.inputs[0], schema.outputs[0]
        if any(formal.type_str != first.type_str for formal in schema.inputs):
            continue
        allowed = next((c for c in schema.type_constraints if c.type_param_str == first.type_str), None)
        result = type_string if output.type_str == first.type_str else _only_type(schema, output.type_str)
        needs = any(attribute.required for attribute in schema.attributes.values())
        if allowed and type_string in allowed.allowed_type_strs and result in DTYPES and not needs:
            yield name, len(schema.inputs), result


def _only_type(schema: Any, variable: str) -> str:
    """Return the one type that a variable can have; "" where there are several."""
    for constraint in schema.type_constraints:
        if constraint.type_param_str == variable:
            allowed = constraint.allowed_type_strs
            return str(allowed[0]) if len(allowed) == 1 else ""
    return variable


def largest(trial: Trial) -> float:
    """Return the largest finite magnitude among the inputs; 0 where there is none."""
    found = 0.0
    for value in trial.inputs:
        if value.dtype.kind not in "OU" and value.size:
            wide = np.abs(value.astype(np.float64))
            found = max(found, float(np.where(np.isfinite(wide), wide, 0).max()))
    return found
