"""The official backend tests of the onnx package on the backend "cupy", and the choice of a share of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.resources import files
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx.backend.test
from model_zoo import REAL_MODELS, RealModel
from onnx.backend.base import Device, DeviceType
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner
from test_backend_suite import IMPOSSIBLE, SeededBackend

import onnxref
from onnxref import schema
from onnxref.dtypes import Array
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


def suite(module: str) -> Any:
    """Return the whole suite; its impossible cases are expected to fail."""
    made = onnx.backend.test.BackendTest(CupyBackend, module)
    for name in IMPOSSIBLE:
        made.xfail(f"^{name}_cuda$")
    return made


def cases() -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield name and function of every possible case that comes without weights of real size."""
    for category, group in suite(__name__).test_cases.items():
        if "Real" in category:
            continue
        for name in sorted(dir(group)):
            if (
                name.startswith("test_")
                and name.endswith("_cuda")
                and name.removesuffix("_cuda") not in IMPOSSIBLE
            ):
                yield name, getattr(group(name), name)


def constant_cases() -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the cases of single nodes with every input but the first as an initializer.

    So lowerings that want to see a value while planning (an axis, a count) see one.
    """
    for case in node_cases():
        inputs, outputs = case.data_sets[0] if case.data_sets else ((), ())
        if len(inputs) < 2 or len(inputs) != len(case.model.graph.input) or case.name in IMPOSSIBLE:
            continue
        if all(isinstance(value, np.ndarray) for value in (*inputs, *outputs)):
            yield f"{case.name}_constant", partial(_run_with_constants, case, inputs, outputs)


def _run_with_constants(case: Any, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    names = [value.name for value in model.graph.input]
    for name, value in zip(names[1:], inputs[1:], strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    del model.graph.input[1:]
    found = onnxref.InferenceSession(model, backend="cupy").run(None, {names[0]: inputs[0]})
    Runner.assert_similar_outputs(outputs, found, case.rtol, case.atol)


def real_models(*names: str) -> list[RealModel]:
    """Return models of tests/model_zoo.py by name."""
    found = {model.name: model for model in REAL_MODELS}
    return [found[name] for name in names]


def kernel_functions() -> set[tuple[str, str]]:
    """Return (file, function) of all kernels that are written by hand.

    Raises:
        ValueError: a file has no kernel, or one that is declared in another way.
    """
    found = set()
    packages = ("onnxref.kernels.cupy.code", "onnxref.gpu.code")
    for path in (path for package in packages for path in files(package).iterdir()):
        if path.name.endswith(".cu"):
            text = path.read_text("utf-8")
            names = _KERNEL.findall(text)
            if not names or len(names) != text.count("__global__"):
                raise ValueError(f"{path.name} declares kernels in a way that is not known here")
            found |= {(path.name, name) for name in names}
    return found


_KERNEL = re.compile(r'extern "C" __global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(')

# Relative to the element, and to the largest element of the output: sums in another order, which cancel.
_TOLERANCE = {"float64": (1e-7, 1e-9), "float32": (1e-4, 2e-5), "float16": (1e-2, 5e-3)}


def assert_close(found: Any, expected: Any, where: str, computed_in: str = "") -> None:
    """Assert that a value is what the reference gave: floats within a tolerance, all else exactly.

    Args:
        computed_in: the type whose tolerance holds, its own if empty.
    """
    if not isinstance(expected, np.ndarray) or expected.dtype.name not in _TOLERANCE:
        np.testing.assert_equal(found, expected, err_msg=where)
        return
    assert found.dtype == expected.dtype, where
    relative, of_largest = _TOLERANCE[computed_in or expected.dtype.name]
    largest = float(np.abs(expected[np.isfinite(expected)]).max(initial=0))
    np.testing.assert_allclose(found, expected, rtol=relative, atol=of_largest * largest, err_msg=where)


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
    """Return the suite's cases of kind "node", those with fewest nodes first, then by name."""
    return sorted(
        load_model_tests(kind="node"), key=lambda case: (len(case.model.graph.node), str(case.name))
    )


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
