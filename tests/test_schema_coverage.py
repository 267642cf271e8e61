"""Every schema version of the onnx package is claimed by exactly one reference kernel that agrees with it."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import Any

import onnx.defs
import pytest
from onnx import AttributeProto
from onnx.defs import OpSchema

from onnxref import registry, schema
from onnxref.plan import LOWERED
from onnxref.registry import Operator

SCHEMAS = onnx.defs.get_all_schemas_with_history()
CLAIMS = {
    (operator.domain, operator.op_type, version): operator for version, operator in registry.operators()
}
NO_DEFAULT = inspect.Parameter.empty


def _label(schema: OpSchema) -> str:
    return f"{schema.domain or 'ai.onnx'}-{schema.name}-{schema.since_version}"


def test_schema_count() -> None:
    assert len(SCHEMAS) == 659
    assert len({(s.domain, s.name) for s in SCHEMAS}) == 227


def test_newest_opset_is_the_newest_version_of_a_domain_with_operators() -> None:
    newest: dict[str, int] = {}
    for found in SCHEMAS:
        newest[found.domain] = max(found.since_version, newest.get(found.domain, 0))
    newest[""] = max(newest[""], onnx.defs.onnx_opset_version())  # which may change no operator
    domains = {*onnx.defs.C.schema_version_map(), "some.other.domain"}
    assert {domain: schema.newest_opset(domain) for domain in domains} == {
        domain: newest.get(domain) for domain in domains
    }


def test_no_version_is_claimed_twice_or_in_vain() -> None:
    claimed = Counter(
        (operator.domain, operator.op_type, version)
        for operator in {id(o): o for o in CLAIMS.values()}.values()
        for version in operator.since
        if operator.domain != registry.INTERNAL  # which has no schemas
    )
    known = {(s.domain, s.name, s.since_version) for s in [*SCHEMAS, *schema.OTHERS.values()]}
    assert [key for key, count in claimed.items() if count > 1] == []
    assert sorted(set(claimed) - known) == []


@pytest.mark.parametrize("schema", SCHEMAS, ids=_label)
def test_version_has_a_kernel_that_agrees_with_its_schema(schema: OpSchema) -> None:
    key = (schema.domain, schema.name, schema.since_version)
    if key in LOWERED:
        assert key not in CLAIMS, f"{key} is lowered by the planner and needs no kernel"
        return
    operator = CLAIMS.get(key)
    assert operator is not None, f"no kernel claims {key}"
    _check_inputs(schema, operator)
    _check_attributes(schema, operator)


@pytest.mark.parametrize("found", schema.OTHERS.values(), ids=lambda s: s.name)
def test_kernel_agrees_with_a_schema_of_another_domain(found: schema.Schema) -> None:
    operator = CLAIMS[found.domain, found.name, found.since_version]
    inputs = [p.name for p in operator.parameters.values() if p.kind is not p.KEYWORD_ONLY]
    assert inputs == [p.name.lower() for p in found.inputs]
    assert operator.attributes.keys() == found.attributes.keys()
    for name, formal in found.attributes.items():
        assert (operator.attributes[name].default is NO_DEFAULT) == formal.required, name


def _check_inputs(schema: OpSchema, operator: Operator) -> None:
    parameters = [p for p in operator.parameters.values() if p.kind is not p.KEYWORD_ONLY]
    option = OpSchema.FormalParameterOption
    newest = schema.since_version == max(operator.since)
    if newest:  # older versions that share the kernel may use other names and fewer inputs
        assert [p.name for p in parameters] == [i.name.lower() for i in schema.inputs]
    for formal, parameter in zip(schema.inputs, parameters, strict=newest):
        if formal.option == option.Variadic:
            assert parameter.kind is parameter.VAR_POSITIONAL, formal.name
        elif formal.option == option.Optional:
            assert parameter.default is None, f"optional input {formal.name} needs the default None"
        elif newest:
            assert parameter.default is NO_DEFAULT, f"required input {formal.name} has a default"


def _check_attributes(schema: OpSchema, operator: Operator) -> None:
    for name, formal in schema.attributes.items():
        parameter = operator.attributes.get(name)
        assert parameter is not None, f"attribute {name} is not taken"
        if formal.required:
            if all(_requires(operator, name)):
                assert parameter.default is NO_DEFAULT, f"required attribute {name} has a default"
            continue
        expected = _python_value(formal.default_value) if formal.default_value.type else None
        # Exactly: an attribute is a float32, and a kernel that takes 0.2 for it is wrong in float64.
        assert parameter.default == expected, name
    unknown = set(operator.attributes) - {n for s in _claimed_schemas(operator) for n in s.attributes}
    assert not unknown, f"no claimed version has the attributes {unknown}"


def _claimed_schemas(operator: Operator) -> list[OpSchema]:
    return [onnx.defs.get_schema(operator.op_type, version, operator.domain) for version in operator.since]


def _requires(operator: Operator, name: str) -> list[bool]:
    """Whether each claimed version requires the attribute; one that lacks it does not."""
    return [name in s.attributes and s.attributes[name].required for s in _claimed_schemas(operator)]


def _python_value(proto: AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, (list, tuple)) or hasattr(value, "extend"):
        return tuple(v.decode() if isinstance(v, bytes) else v for v in value)
    return value
