"""What holds for every lowering: it exists for real versions, and its signature is the schema's."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from onnxref import registry, schema
from onnxref.lowering import Lowering, load_lowerings, lowerings

load_lowerings("numba")
STANDARD = [(version, found) for version, found in lowerings("numba") if found.domain != registry.INTERNAL]


def _id(row: tuple[int, Lowering]) -> str:
    return f"{row[1].op_type}-{row[0]}"


@pytest.mark.parametrize("row", STANDARD, ids=_id)
def test_a_lowering_has_the_signature_of_its_schema(row: tuple[int, Lowering]) -> None:
    version, lowering = row
    found = schema.find(lowering.domain, lowering.op_type, version)
    assert found is not None
    assert found.since_version == version, "there is no such version"
    reference = registry.find(lowering.domain, lowering.op_type, version)
    parameters = list(inspect.signature(lowering.emit).parameters.values())[1:]  # after the site
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    taken = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    for name in found.attributes:
        assert takes_all or name in taken, f"a node with {name} would be refused"
        if name in taken:
            default = reference.attributes[name].default
            # A node always has a required attribute; GRU-1 misspells "forward".
            if default not in (inspect.Parameter.empty, "foward"):
                assert taken[name] == default, f"another default of {name}"
    if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        inputs = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert len(inputs) >= len(found.inputs)


def test_internal_operators_that_passes_make_are_known() -> None:
    internal = {found.op_type for _, found in lowerings("numba") if found.domain == registry.INTERNAL}
    assert {"FusedConv", "FusedMatMul", "Chain", "ToBlocked", "FromBlocked", "ZeroBorder"} <= internal


def test_lowerings_load_without_numba() -> None:
    program = (
        "import sys; from onnxref.lowering import load_lowerings; load_lowerings('numba'); "
        "print('numba' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
