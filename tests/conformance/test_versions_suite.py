"""Every old schema version has a case that tells it from the newest, or a reason why none can exist."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import onnx
import pytest

import onnxref
from conformance.cases import Case, decode_data_set, parse_model
from conformance.compare import Comparison, compare_outputs
from conformance.suites import _versions_same, collect, find_case, versions
from conformance.suites._versions_rows import Row
from conformance.suites._versions_same import SAME_FORM

Key = tuple[str, str, int]


def _history() -> dict[tuple[str, str], list[Any]]:
    history = defaultdict(list)
    for schema in onnx.defs.get_all_schemas_with_history():
        history[schema.domain, schema.name].append(schema)
    return {key: sorted(found, key=lambda schema: schema.since_version) for key, found in history.items()}


HISTORY = _history()
ROWS = list(versions.rows())
CASED = {(row.domain, row.operator, row.version) for _, row in ROWS}
each_row = pytest.mark.parametrize(("group", "row"), ROWS, ids=[row.name for _, row in ROWS])


def _run(case: Case) -> Comparison:
    model = parse_model(case.model)
    inputs, expected = decode_data_set(model, case.data_sets[0])
    names = [info.name for info in model.graph.input]
    got = onnxref.run(model, dict(zip(names, inputs, strict=True)))
    return compare_outputs(expected, list(got.values()), rtol=case.rtol, atol=case.atol)


def test_every_old_version_is_in_exactly_one_table() -> None:
    old: set[Key] = {
        (*key, schema.since_version) for key, schemas in HISTORY.items() for schema in schemas[:-1]
    }
    tables = [CASED, set(versions.SAME_RULES), set(versions.NOT_YET)]
    assert set.union(*tables) == old
    assert sum(len(table) for table in tables) == len(old)


def test_no_version_is_given_two_reasons() -> None:
    keys = [key for key, _ in _versions_same._entries()]
    assert len(set(keys)) == len(keys)


def _form(schema: Any) -> tuple[Any, ...]:
    attributes = {
        name: (attribute.type, attribute.required, attribute.default_value.SerializeToString())
        for name, attribute in schema.attributes.items()
    }
    formals = [[formal.option for formal in side] for side in (schema.inputs, schema.outputs)]
    return attributes, formals


@pytest.mark.parametrize("key", [key for key, why in versions.SAME_RULES.items() if why == SAME_FORM])
def test_a_version_of_the_same_form_has_the_newest_form(key: Key) -> None:
    schemas = {schema.since_version: schema for schema in HISTORY[key[:2]]}
    assert _form(schemas[key[2]]) == _form(schemas[max(schemas)])


@pytest.mark.parametrize("key", [key for key, why in versions.SAME_RULES.items() if why != SAME_FORM])
def test_a_version_that_was_extended_lost_no_attribute(key: Key) -> None:
    schemas = {schema.since_version: schema for schema in HISTORY[key[:2]]}
    old, newest = (set(schemas[version].attributes) for version in (key[2], max(schemas)))
    assert old <= newest
    assert len(schemas[key[2]].inputs) <= len(schemas[max(schemas)].inputs)


def test_names_are_unique_and_tell_operator_and_version() -> None:
    names = [row.name for _, row in ROWS]
    assert len(set(names)) == len(names)
    for _, row in ROWS:
        assert row.name.startswith(f"test_{row.operator.lower()}_{row.version}_")


def test_the_model_imports_the_version_it_tests() -> None:
    for case in versions.load():
        assert onnx.defs.get_schema(case.operator, case.opset, case.domain).since_version == case.opset


@each_row
def test_the_case_passes_at_its_own_version(group: str, row: Row) -> None:
    comparison = _run(versions.make_case(group, row, row.version))
    assert comparison.passed, comparison.message


@each_row
def test_the_newest_version_answers_otherwise_or_refuses(group: str, row: Row) -> None:
    newest = HISTORY[row.domain, row.operator][-1].since_version
    try:
        comparison = _run(versions.make_case(group, row, newest))
    except onnxref.OnnxRefError:
        return
    assert not comparison.passed


def test_expected_values_keep_the_bits_of_nan() -> None:
    case = next(case for case in versions.load() if case.name == "test_labelencoder_2_compares_bits")
    inputs, _ = decode_data_set(parse_model(case.model), case.data_sets[0])
    assert inputs[0].view(np.uint32).tolist() == [0x7FC00001, 0xFFC00000, 0x7FC00000]


def test_the_suite_is_collected_and_its_cases_are_found_by_name() -> None:
    names = [case.id for case in collect(["versions"])]
    assert names == [case.id for case in versions.load()]
    assert find_case(names[0]).id == names[0]
