"""The specification's function bodies as a second oracle.

The schema of many operators says, beside its text, how the operator is made of others. Here the
reference kernel and that body, both run by the interpreter, must agree. Every schema version with a
body has rows in `function_cases.py`; so has every place where the kernel follows the text against
the body, and there it is held that the two still differ.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from function_cases import ROWS
from function_rows import Kind, Row
from node_models import feeds, make_node, node_model, type_of, type_proto

import onnxref
from onnxref.dtypes import tensor_type_string

# The stubs of OpSchema leave out what concerns function bodies.
OpSchema = Any

# The body is called under a domain of its own, so that the call is not the operator itself.
ORACLE = "function.bodies"

_SCHEMAS: list[OpSchema] = list(onnx.defs.get_all_schemas_with_history())
WITH_BODY = {
    (s.domain, s.name, s.since_version): s
    for s in _SCHEMAS
    if s.has_function or s.has_context_dependent_function
}


def _body_versions(schema: OpSchema) -> list[int]:
    return sorted({*schema.function_opset_versions, *schema.context_dependent_function_opset_versions})


def _opsets(schema: OpSchema) -> list[int]:
    """Return one opset for each body: the first in which the schema and that body are in force."""
    return sorted({max(schema.since_version, version) for version in _body_versions(schema)})


def _problems() -> Iterator[Any]:
    for row in ROWS:
        for key, schema in WITH_BODY.items():
            if key[:2] != (row.domain, row.op_type) or (row.since and key[2] not in row.since):
                continue
            allowed = schema.inputs[0].types
            for dtype in row.dtypes:
                if tensor_type_string(dtype) in allowed or f"seq({tensor_type_string(dtype)})" in allowed:
                    for opset in _opsets(schema):
                        label = f"{row.op_type}-{key[2]}-opset{opset}-{row.label}-{dtype.name}"
                        yield pytest.param(row, schema, opset, dtype, id=label)


PROBLEMS = list(_problems())


def expand(
    schema: OpSchema, node: onnx.NodeProto, opset: int, types: Sequence[onnx.TypeProto]
) -> onnx.FunctionProto:
    """Return the body in force at an opset, as a function of the domain `ORACLE`.

    Args:
        types: of the node's inputs, with their shapes; some bodies depend on the rank.
    """
    version = max(v for v in _body_versions(schema) if v <= opset)
    if schema.has_function:
        data: bytes = schema.get_function_with_opset_version(version)
    else:
        data = schema.get_context_dependent_function_with_opset_version(
            version, node.SerializeToString(), [t.SerializeToString() for t in types]
        )
    function = onnx.FunctionProto()
    function.ParseFromString(data)
    function.domain = ORACLE
    del function.output[len(node.output) :]  # the body for this node need not make the others
    return function


def _shaped_type(value: Any) -> onnx.TypeProto:
    if value is None:
        return onnx.TypeProto()
    proto = type_proto(type_of(value))
    if isinstance(value, np.ndarray):
        proto.tensor_type.shape.dim.extend(onnx.TensorShapeProto.Dimension(dim_value=d) for d in value.shape)
    return proto


def _imports(schema: OpSchema, opset: int) -> dict[str, int]:
    # The body of FlexAttention imports no version of ai.onnx: it takes the model's.
    return {"": opset} if not schema.domain else {"": onnx.defs.onnx_opset_version(), schema.domain: opset}


def run_kernel(schema: OpSchema, node: onnx.NodeProto, opset: int, inputs: Sequence[Any]) -> list[Any]:
    """Return what the reference kernel makes of a node."""
    values = feeds(inputs)
    types = {name: type_of(value) for name, value in values.items()}
    model = node_model(node, _imports(schema, opset), types)
    return list(onnxref.run(model, values, backend="numpy").values())


def run_body(schema: OpSchema, node: onnx.NodeProto, opset: int, inputs: Sequence[Any]) -> list[Any]:
    """Return what the body of the node's operator makes of the same inputs."""
    values = feeds(inputs)
    types = {name: type_of(value) for name, value in values.items()}
    function = expand(schema, node, opset, [_shaped_type(values.get(name)) for name in node.input])
    call = onnx.NodeProto()
    call.CopyFrom(node)
    call.domain = ORACLE
    given = {attribute.name for attribute in node.attribute}
    defaults = [
        a.default_value for name, a in schema.attributes.items() if a.default_value.name and name not in given
    ]
    del call.attribute[:]
    call.attribute.extend(a for a in [*node.attribute, *defaults] if a.name in function.attribute)
    model = node_model(call, {**_imports(schema, opset), ORACLE: 1}, types, [function])
    return list(onnxref.run(model, values, backend="numpy").values())


def _eps(dtype: np.dtype[Any]) -> float:
    return float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]


def assert_agree(kernel: Any, body: Any, row: Row, stage: np.dtype[Any] | None) -> None:
    """Hold that two outputs are the same but for the roundings that the row allows the body."""
    if isinstance(body, list):
        assert isinstance(kernel, list)
        for one, other in zip(kernel, body, strict=True):
            assert_agree(one, other, row, stage)
        return
    assert kernel.dtype == body.dtype
    assert kernel.shape == body.shape
    if body.dtype.kind in "biuO":
        np.testing.assert_array_equal(kernel, body)
        return
    # Each of the body's roundings may move a value of the size of its intermediates by one unit.
    eps = max(_eps(body.dtype), _eps(stage) if stage is not None else 0)
    tolerance = row.roundings * eps
    np.testing.assert_allclose(
        kernel.astype(np.float64), body.astype(np.float64), rtol=tolerance, atol=tolerance * row.scale
    )


def _both(row: Row, schema: OpSchema, opset: int, dtype: np.dtype[Any]) -> Iterator[list[Any]]:
    """Yield what the kernel makes of the row's inputs, then what the body does."""
    rng = np.random.default_rng(zlib.crc32(f"{row.op_type} {row.label}".encode()))
    inputs = [make(rng, dtype) if make is not None else None for make in row.inputs]
    node = make_node(row.op_type, inputs, row.n_outputs, row.attributes_for(dtype), row.domain)
    yield run_kernel(schema, node, opset, inputs)
    yield run_body(schema, node, opset, inputs)


def test_every_body_has_rows() -> None:
    assert len(WITH_BODY) == 76
    assert len({key[:2] for key in WITH_BODY}) == 49
    tested = {(p.values[1].domain, p.values[1].name, p.values[1].since_version) for p in PROBLEMS}
    assert sorted(WITH_BODY.keys() - tested) == []


def test_every_row_and_deviation_is_used() -> None:
    used = {id(row) for row, *_ in (p.values for p in PROBLEMS)}
    assert [f"{row.op_type} {row.label}" for row in ROWS if id(row) not in used] == []
    met = {
        id(row.deviation(schema.since_version, dtype))
        for row, schema, _, dtype in (p.values for p in PROBLEMS)
    }
    unmet = [
        f"{row.op_type} {row.label}: {d.reason}" for row in ROWS for d in row.deviations if id(d) not in met
    ]
    assert unmet == []


@pytest.mark.parametrize(("row", "schema", "opset", "dtype"), PROBLEMS)
def test_kernel_and_body(row: Row, schema: OpSchema, opset: int, dtype: np.dtype[Any]) -> None:
    deviation = row.deviation(schema.since_version, dtype)
    results = _both(row, schema, opset, dtype)
    kernel = next(results)
    if deviation is not None and deviation.kind is Kind.INVALID_BODY:
        with pytest.raises(onnxref.OnnxRefError):
            next(results)
        return
    body = next(results)
    if deviation is None:
        assert_agree(kernel, body, row, row.stage)
        return
    if deviation.kind is Kind.FLOAT32_BODY:
        assert_agree(kernel, body, row, np.dtype(np.float32))
    with pytest.raises(AssertionError):
        assert_agree(kernel, body, row, row.stage)
