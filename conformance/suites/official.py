"""The backend tests of the installed onnx package: node, simple, PyTorch and real models."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from .. import values
from ..cases import Case, DataSet, describe_model, parse_model, read_group
from ..errors import SuiteError

SUITE = "official"
FOLDERS = ("simple", "pytorch-converted", "pytorch-operator")


def load() -> list[Case]:
    """Return all cases, in a fixed order."""
    data = Path(onnx.__file__).parent / "backend" / "test" / "data"
    if not data.is_dir():
        raise SuiteError(f"the installed onnx {onnx.__version__} has no test data in {str(data)!r}")
    cases = _node_cases()
    for group in FOLDERS:
        cases += read_group(data / group, SUITE, group)
    return cases + [_real_case(folder, data) for folder in sorted((data / "real").glob("test_*"))]


def _node_cases() -> list[Case]:
    from onnx.backend.test.loader import load_model_tests

    # The generators overflow on purpose, and some of them print.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return sorted((_node_case(test) for test in load_model_tests(kind="node")), key=lambda c: c.name)


def _node_case(test: Any) -> Case:
    graph = test.model.graph
    data_sets = tuple(
        DataSet(_encode_all(inputs, graph.input), _encode_all(outputs, graph.output))
        for inputs, outputs in test.data_sets
    )
    model = test.model.SerializeToString(deterministic=True)
    facts = describe_model(test.model) | {"rtol": float(test.rtol), "atol": float(test.atol)}
    return Case(suite=SUITE, group="node", name=test.name, model=model, data_sets=data_sets, **facts)


def _encode_all(items: Any, declared: Any) -> tuple[bytes, ...]:
    return tuple(values.encode(item, info.type) for item, info in zip(items, declared, strict=False))


def _real_case(folder: Path, data: Path) -> Case:
    """A well-known architecture with made-up weights; its input is a ramp that the suite defines."""
    facts = json.loads((folder / "data.json").read_text())
    path = data / "light" / Path(facts["url"]).name
    content = path.read_bytes()
    model = parse_model(content)
    initialized = {tensor.name for tensor in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in initialized]
    expected = [path.with_name(f"{path.stem}_output_{i}.pb") for i in range(len(model.graph.output))]
    data_set = DataSet(
        tuple(values.encode(_ramp(info), info.type) for info in inputs),
        tuple(file.read_bytes() for file in expected),
    )
    tolerances = {key: float(facts[key]) for key in ("rtol", "atol") if key in facts}
    described = describe_model(model) | tolerances
    return Case(
        suite=SUITE, group="real", name=folder.name, model=content, data_sets=(data_set,), **described
    )


def _ramp(info: onnx.ValueInfoProto) -> np.ndarray[Any, Any]:
    """Return 0, 1/n, 2/n ... in the declared shape, as the suite's own runner makes it."""
    dims = info.type.tensor_type.shape.dim
    shape = tuple(d.dim_value if d.HasField("dim_value") else 1 for d in dims)
    count = int(np.prod(shape))
    return (np.arange(count).reshape(shape) / count).astype(np.float32)
