"""Old versions of operators: what their text says and the newest version's no longer does.

The official suite tests an operator at its newest version only. Every older schema version is in one of two
tables: the rows, each with a case that the newest version refuses or answers differently, and `SAME_RULES`,
where a model of that version means the same under the newest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
from onnx import helper

from .. import values
from ..cases import Case, DataSet, describe_model
from . import _versions_math, _versions_nn, _versions_tensor
from ._versions_rows import Array, Row
from ._versions_same import NOT_YET, SAME_RULES

__all__ = ["NOT_YET", "SAME_RULES", "SUITE", "load", "make_case", "rows"]

SUITE = "versions"
GROUPS = {"math": _versions_math, "tensor": _versions_tensor, "nn": _versions_nn}

# IR 10 knows every element type that the cases use, and most backends read it.
_IR_VERSION = 10


def rows() -> Iterator[tuple[str, Row]]:
    """Yield every row with its group."""
    for group, module in GROUPS.items():
        for row in module.rows():
            yield group, row


def load() -> list[Case]:
    """Return all cases, in a fixed order."""
    return [make_case(group, row, row.version) for group, row in rows()]


def make_case(group: str, row: Row, opset: int) -> Case:
    """Return a row as a case whose model imports `opset` of the row's domain."""
    inputs = _declare(row.inputs, "input")
    outputs = _declare(row.outputs, "output")
    node = helper.make_node(
        row.operator,
        [name for name, _, _ in inputs],
        [name for name, _, _ in outputs],
        domain=row.domain,
        **row.attributes,
    )
    given = [(value, info) for _, value, info in inputs if value is not None]
    wanted = [(value, info) for _, value, info in outputs if value is not None]
    graph = helper.make_graph([node], row.name, [info for _, info in given], [info for _, info in wanted])
    graph.doc_string = row.rule
    imports = [helper.make_opsetid(row.domain, opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION)
    data_set = DataSet(
        tuple(values.encode(value, info.type) for value, info in given),
        tuple(values.encode(value, info.type) for value, info in wanted),
    )
    return Case(
        suite=SUITE,
        group=group,
        name=row.name,
        rtol=row.rtol,
        atol=row.atol,
        model=model.SerializeToString(deterministic=True),
        data_sets=(data_set,),
        **describe_model(model),
    )


def _declare(items: Any, kind: str) -> list[tuple[str, Array | None, onnx.ValueInfoProto]]:
    """Name the values and declare their types; one that is left out has no name."""
    declared = []
    for index, value in enumerate(items):
        name = "" if value is None else f"{kind}_{index}"
        info = onnx.ValueInfoProto()
        if value is not None:
            dtype = helper.np_dtype_to_tensor_dtype(value.dtype)
            info = helper.make_tensor_value_info(name, dtype, value.shape)
        declared.append((name, value, info))
    return declared
