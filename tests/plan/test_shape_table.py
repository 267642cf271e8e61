"""The table of operators whose output shapes depend on values, against onnx's own shape inference.

An operator that the table does not name must have output shapes that follow from the types of its inputs
alone: inference that sees no values must give them completely, and as the official test data has them.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import shape_inference
from onnx.backend.test.loader import load_model_tests

from onnxref.plan.specialize._shapes import _DYNAMIC, _SHAPED_BY

# Their shapes follow from their inputs' shapes too, by the text of the specification.
_INFERENCE_FAILS = {
    "Attention": "inference leaves the shapes of 3-D inputs open",
    "GRU": "inference ignores layout = 1",
    "GroupNormalization": "inference is that of a function body, which reshapes",
    "LSTM": "inference ignores layout = 1",
    "MeanVarianceNormalization": "inference is that of a function body",
    "RNN": "inference ignores layout = 1",
}


def _cases() -> dict[str, list[tuple[onnx.ModelProto, list[object], list[object]]]]:
    """Return the official cases of one node of an unlisted operator, by operator."""
    found: dict[str, list[tuple[onnx.ModelProto, list[object], list[object]]]] = {}
    for case in load_model_tests(kind="node"):
        model = case.model
        if model is None or not case.data_sets or len(model.graph.node) != 1 or model.functions:
            continue
        node = model.graph.node[0]
        has_body = any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute)
        if has_body or node.op_type in _DYNAMIC or node.op_type in _SHAPED_BY:
            continue
        inputs, outputs = case.data_sets[0]
        if all(isinstance(x, np.ndarray) and x.dtype != np.object_ for x in (*inputs, *outputs)):
            found.setdefault(node.op_type, []).append((model, inputs, outputs))
    return found


CASES = _cases()


def test_there_are_cases() -> None:
    assert len(CASES) > 120


@pytest.mark.parametrize("op_type", [name for name in CASES if name not in _INFERENCE_FAILS])
def test_shapes_follow_from_shapes(op_type: str) -> None:
    for model, inputs, outputs in CASES[op_type]:
        node = model.graph.node[0]
        opset = next(entry.version for entry in model.opset_import if entry.domain == node.domain)
        types = {
            value.name: onnx.helper.make_tensor_type_proto(value.type.tensor_type.elem_type, x.shape)
            for value, x in zip(model.graph.input, inputs, strict=True)
        }
        inferred = shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, opset, node.domain),
            node,
            types,
            opset_imports=model.opset_import,
            ir_version=model.ir_version,
        )
        names = [name for name in node.output if name]
        for name, wanted in zip(names, outputs, strict=True):
            shape = inferred[name].tensor_type.shape
            assert inferred[name].tensor_type.HasField("shape"), f"{op_type} has no shape without values"
            assert tuple(dim.dim_value for dim in shape.dim) == wanted.shape, op_type
