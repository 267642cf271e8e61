"""A case: a model, inputs, and what must come out; and the folder layout of the official tests.

test_relu/model.onnx
test_relu/data.json                    optional: {"rtol": 0.001, "atol": 1e-07}
test_relu/test_data_set_0/input_0.pb   a TensorProto, SequenceProto or OptionalProto
test_relu/test_data_set_0/output_0.pb
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from . import values
from .errors import BrokenCaseError, SuiteError

# Tolerances that the official suite grants where a case states none.
RTOL, ATOL = 1e-3, 1e-7

_TYPE_NAMES = {number: name.lower() for name, number in onnx.TensorProto.DataType.items() if number}


@dataclass(frozen=True, slots=True)
class DataSet:
    """Serialised inputs and expected outputs, in the order of the model's graph."""

    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test of a backend.

    Attributes:
        suite: `official`, `types`, `versions`, or `release-` and a version.
        group: folder within the suite: `node`, `simple`, ...
        name: the test's own name, such as `test_relu`.
        operator: what is tested: the one node's operator, or "" for a graph of several nodes.
        domain: the operator's domain; "" is ai.onnx.
        opset: the version of that domain that the model imports; 0 where the model is unreadable.
        type: the element type that is tested, such as `float16`: that of the first input; "" for none.
        types_only: nobody foretold the values: outputs must have the types and shapes that the graph
            declares, and the data sets hold no outputs.
        right, right_atol: the outputs that are right where those of the data set have been found wrong.
        right_declared: then any values of the declared types and shapes are right.
        folder: where the case lies; None for a case that is held in memory, in `model` and `data_sets`.
    """

    suite: str
    group: str
    name: str
    operator: str = ""
    domain: str = ""
    opset: int = 0
    type: str = ""
    rtol: float = RTOL
    atol: float = ATOL
    types_only: bool = False
    right: tuple[bytes, ...] = field(default=(), repr=False)
    right_atol: float = ATOL
    right_declared: bool = False
    folder: Path | None = None
    model: bytes = field(default=b"", repr=False)
    data_sets: tuple[DataSet, ...] = field(default=(), repr=False)

    @property
    def id(self) -> str:
        """The name by which results and commands mean this case."""
        return f"{self.suite}/{self.group}/{self.name}"

    @property
    def model_path(self) -> Path | None:
        """Where the model's file lies; None for a case in memory."""
        return None if self.folder is None else self.folder / "model.onnx"

    def contents(self) -> tuple[bytes, tuple[DataSet, ...]]:
        """Return the model and the data sets, read from the folder where there is one.

        Raises:
            BrokenCaseError: the folder cannot be read, or has no data.
        """
        if self.folder is None:
            return self.model, self.data_sets
        try:
            model = (self.folder / "model.onnx").read_bytes()
            data_sets = tuple(_read_data_set(path) for path in _numbered(self.folder.glob("test_data_set_*")))
        except OSError as error:
            raise BrokenCaseError(f"cannot read {error.filename}: {error.strerror}") from error
        if not data_sets:
            raise BrokenCaseError(f"{self.folder} has no test_data_set_*")
        return model, data_sets

    def to_json(self) -> dict[str, Any]:
        """Return the case as a worker is told of it."""
        told: dict[str, Any] = {"id": self.id, "rtol": self.rtol, "atol": self.atol}
        if self.types_only:
            told["types_only"] = True
        if self.right or self.right_declared:
            told["right"] = [_texts(self.right), self.right_atol, self.right_declared]
        if self.folder is not None:
            return told | {"folder": str(self.folder)}
        data = [[_texts(data_set.inputs), _texts(data_set.outputs)] for data_set in self.data_sets]
        return told | {"model": base64.b64encode(self.model).decode(), "data_sets": data}


def from_json(told: dict[str, Any]) -> Case:
    """Return the case that `Case.to_json` described; its operator and opset are not told."""
    suite, group, name = told["id"].split("/", 2)
    case = {"suite": suite, "group": group, "name": name, "rtol": told["rtol"], "atol": told["atol"]}
    case["types_only"] = told.get("types_only", False)
    if "right" in told:
        right, atol, declared = told["right"]
        case |= {"right": _bytes(right), "right_atol": atol, "right_declared": declared}
    if "folder" in told:
        return Case(**case, folder=Path(told["folder"]))
    data_sets = tuple(DataSet(_bytes(inputs), _bytes(outputs)) for inputs, outputs in told["data_sets"])
    return Case(**case, model=base64.b64decode(told["model"]), data_sets=data_sets)


def _texts(items: Iterable[bytes]) -> list[str]:
    return [base64.b64encode(item).decode() for item in items]


def _bytes(items: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(base64.b64decode(item) for item in items)


def parse_model(data: bytes) -> onnx.ModelProto:
    """Return the model that bytes hold; a `BrokenCaseError` says that they hold none."""
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise BrokenCaseError(f"model.onnx holds no model: {error}") from error
    if not model.HasField("graph"):
        raise BrokenCaseError("model.onnx holds no graph")
    return model


def decode_data_set(
    model: onnx.ModelProto, data_set: DataSet, types_only: bool = False
) -> tuple[list[Any], list[Any]]:
    """Return inputs and expected outputs as Python values, by the types that the graph declares."""
    pairs = ((model.graph.input, data_set.inputs), (model.graph.output, data_set.outputs))
    for (declared, files), kind in zip(pairs, ("input", "output"), strict=True):
        if len(files) > len(declared):
            raise BrokenCaseError(f"{len(files)} {kind} files for a model with {len(declared)} {kind}s")
    if not types_only and len(data_set.outputs) != len(model.graph.output):
        raise BrokenCaseError(f"{len(data_set.outputs)} output files for {len(model.graph.output)} outputs")
    inputs, outputs = (
        [values.decode(data, info.type) for info, data in zip(declared, files, strict=False)]
        for declared, files in pairs
    )
    return inputs, outputs


def describe_model(model: onnx.ModelProto) -> dict[str, Any]:
    """Return the operator, domain, opset version and element type that a model tests."""
    imports = {_canonical(entry.domain): entry.version for entry in model.opset_import}
    nodes = [node for node in model.graph.node if node.op_type != "Constant"] or list(model.graph.node)
    operators = {(_canonical(node.domain), node.op_type) for node in nodes}
    domain, operator = operators.pop() if len(operators) == 1 else ("", "")
    opset = imports.get(domain, 1 if not imports else 0)
    return {"operator": operator, "domain": domain, "opset": opset, "type": element_type(model)}


def element_type(model: onnx.ModelProto) -> str:
    """Return the element type of the first input, in the spelling of schemas; "" where there is none."""
    held = {tensor.name for tensor in model.graph.initializer}
    declared = next((info.type for info in model.graph.input if info.name not in held), onnx.TypeProto())
    while kind := declared.WhichOneof("value"):
        inner = getattr(declared, kind)
        if hasattr(inner, "value_type"):
            declared = inner.value_type  # a map
        elif isinstance(inner.elem_type, int):
            return _TYPE_NAMES.get(inner.elem_type, "")
        else:
            declared = inner.elem_type
    return ""


def _canonical(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def read_case(folder: Path, suite: str, group: str) -> Case:
    """Return the case in a folder; one that cannot be read is a case that will be found broken."""
    facts: dict[str, Any] = {}
    try:
        facts = describe_model(parse_model((folder / "model.onnx").read_bytes()))
        tolerances = json.loads((folder / "data.json").read_text()) if (folder / "data.json").exists() else {}
        facts |= {key: float(tolerances[key]) for key in ("rtol", "atol") if key in tolerances}
        facts["types_only"] = tolerances.get("types_only") is True
    except (OSError, ValueError, TypeError, BrokenCaseError):
        # The worker meets the same fault and makes it the outcome; here it only costs the description.
        return Case(suite=suite, group=group, name=folder.name, folder=folder)
    return Case(suite=suite, group=group, name=folder.name, folder=folder, **facts)


def read_group(folder: Path, suite: str, group: str) -> list[Case]:
    """Return the cases in the folders `test_*` below `folder`, by name."""
    return [read_case(path, suite, group) for path in sorted(folder.glob("test_*")) if path.is_dir()]


def write_case(case: Case, folder: Path) -> None:
    """Write a case in the layout of the official tests."""
    model, data_sets = case.contents()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(model)
        tolerances: dict[str, Any] = {"rtol": case.rtol, "atol": case.atol}
        if case.types_only:
            tolerances["types_only"] = True
        (folder / "data.json").write_text(json.dumps(tolerances) + "\n")
        for number, data_set in enumerate(data_sets):
            inner = folder / f"test_data_set_{number}"
            inner.mkdir(exist_ok=True)
            for kind, files in (("input", data_set.inputs), ("output", data_set.outputs)):
                for index, data in enumerate(files):
                    (inner / f"{kind}_{index}.pb").write_bytes(data)
    except OSError as error:
        raise SuiteError(f"cannot write the case to {str(folder)!r}: {error.strerror}") from error


def _read_data_set(folder: Path) -> DataSet:
    inputs, outputs = (
        tuple(path.read_bytes() for path in _numbered(folder.glob(f"{kind}_*.pb")))
        for kind in ("input", "output")
    )
    return DataSet(inputs, outputs)


def _numbered(paths: Iterable[Path]) -> list[Path]:
    """Sort by the number at the end of the name: input_10.pb comes after input_2.pb."""
    return sorted(paths, key=lambda path: int((re.findall(r"\d+", path.stem) or ["0"])[-1]))
