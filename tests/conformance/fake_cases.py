"""Cases in memory for the tests of the conformance tool."""

from __future__ import annotations

import numpy as np
import onnx
from onnxref.conformance import values
from onnxref.conformance.cases import Case, DataSet, describe_model


def neg_case(name: str = "test_neg", *, expected: object = None) -> Case:
    """A case in memory: Neg of (1, 2), whose right result is (-1, -2)."""
    node = onnx.helper.make_node("Neg", ["x"], ["y"])
    infos = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2]) for n in "xy"]
    graph = onnx.helper.make_graph([node], "g", infos[:1], infos[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    x = np.float32([1, 2])
    data_set = DataSet(
        (values.encode(x, infos[0].type),),
        (values.encode(-x if expected is None else expected, infos[1].type),),
    )
    return Case(
        suite="fake",
        group="node",
        name=name,
        model=model.SerializeToString(),
        data_sets=(data_set,),
        **describe_model(model),
    )
