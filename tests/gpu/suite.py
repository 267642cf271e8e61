"""The official backend tests of the onnx package on the backend "cupy", and the choice of a share of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from typing import Any, ClassVar

import onnx
import onnx.backend.test
from onnx.backend.base import Device, DeviceType
from onnx.backend.test.loader import load_model_tests
from model_zoo import REAL_MODELS, RealModel
from test_backend_suite import SeededBackend

from onnxref import schema
from onnxref.model import canonical_domain


class CupyBackend(SeededBackend):
    """onnxref with its kernels for GPUs: the suite's CUDA half runs, and nothing of its other half."""

    options: ClassVar[dict[str, Any]] = {"backend": "cupy"}

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return bool(Device(device).type == DeviceType.CUDA)

    @classmethod
    def prepare(cls, model: Any, device: str = "CUDA", **kwargs: Any) -> Any:
        return super().prepare(model, device, **kwargs)


IMPOSSIBLE = ("test_bernoulli", "test_loop16_seq_none_cuda")
"""Begins of the names of cases that nothing can pass; tests/test_backend_suite.py says why."""


def suite(module: str) -> Any:
    """Return the whole suite; its impossible cases are expected to fail."""
    made = onnx.backend.test.BackendTest(CupyBackend, module)
    for begin in IMPOSSIBLE:
        made.xfail(f"^{begin}")
    return made


def cases() -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield name and function of every possible case that comes without weights of real size."""
    for category, group in suite(__name__).test_cases.items():
        if "Real" in category:
            continue
        for name in sorted(dir(group)):
            if name.startswith("test_") and name.endswith("_cuda") and not name.startswith(IMPOSSIBLE):
                yield name, getattr(group(name), name)


def real_models(*names: str) -> list[RealModel]:
    """Return models of tests/model_zoo.py by name."""
    found = {model.name: model for model in REAL_MODELS}
    return [found[name] for name in names]


def kernel_files() -> set[str]:
    """Return the names of all files of kernels."""
    return {path.name for path in files("onnxref.kernels.cupy.code").iterdir() if path.name.endswith(".cu")}


def operators(model: onnx.ModelProto) -> set[tuple[str, str, int]]:
    """Return (domain, operator, schema version) of all nodes of a model's main graph."""
    versions = {canonical_domain(entry.domain): entry.version for entry in model.opset_import}
    found = set()
    for node in model.graph.node:
        domain = canonical_domain(node.domain)
        known = schema.find(domain, node.op_type, versions.get(domain, 0))
        found.add((domain, node.op_type, known.since_version if known else 0))
    return found


def node_cases() -> list[Any]:
    """Return the suite's cases of single nodes, by name."""
    return sorted(load_model_tests(kind="node"), key=lambda case: str(case.name))


def one_for_each_operator(cases: Iterable[Any]) -> set[str]:
    """Return the names of those cases that have an operator, in a version, that none before them has."""
    seen: set[tuple[str, str, int]] = set()
    chosen = set()
    for case in cases:
        new = operators(case.model) - seen
        if new:
            seen |= new
            chosen.add(f"{case.name}_cuda")
    return chosen
