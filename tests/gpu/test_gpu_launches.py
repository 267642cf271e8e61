"""How many launches a layer takes: on a card each costs as much as the work of a small one.

The networks are those of the benchmark, small; one more launch in a layer is seen here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxref
from onnxref.dtypes import Array
from onnxref.gpu import LibraryCall
from onnxref.plan.specialize import DeviceProgram

from .emulator.device import EmulatedDevice
from .planned import LIBRARIES, recording

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BEFORE = ["gather", "chain", "normalize_rows"]  # words and places, summed, of BERT
PRODUCT, NORM = "cublasLt.matmul", "normalize_rows"


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpu_networks")


def planned(model: onnx.ModelProto, feeds: Mapping[str, Array], *libraries: str) -> list[str]:
    """Return what a run launches, in order: the operation of a library, or the kernel's function."""
    with recording(*libraries):
        session = onnxref.InferenceSession(model, backend="cupy")
        session.run(None, dict(feeds))
        programs = [region.program for region in session.native_regions()]
    lowered = [
        found for program in programs if isinstance(program, DeviceProgram) for found in program.lowered
    ]
    assert all(found.step is None for found in lowered), "something runs on the reference"
    calls = [call for found in lowered for call in found.launches]
    return [str(c).partition("(")[0] if isinstance(c, LibraryCall) else c.kernel.entry for c in calls]


def network(networks: Any, name: str, dtype: str) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Return the small form of a network, and inputs of one item."""
    found = next(made for made in networks.NETWORKS if made.name.startswith(name))
    return found.build(dtype, True), found.feeds(dtype, 1, True)


def layers_of(networks: Any, dtype: str, layers: int, length: int) -> onnx.ModelProto:
    """Return layers of BERT alone, with three heads."""
    b = networks.Builder(dtype)
    y, _ = networks.transformer_layers(b, "x", 3, layers, before=False, past=False)
    return b.model({"x": (dtype, ["n", length, 3 * 64])}, [y])


@pytest.mark.parametrize(
    ("name", "launches"), [("ResNet-50", 57), ("BERT", 99), ("YOLOv8n", 97), ("GPT-2", 75)]
)
def test_whole_networks(networks: Any, name: str, launches: int) -> None:
    """What the changelog says of networks of full size."""
    found = next(made for made in networks.NETWORKS if made.name.startswith(name))
    model, feeds = found.build("float16", False), found.feeds("float16", 1, False)
    assert len(planned(model, feeds, *LIBRARIES)) == launches


def test_bert(networks: Any) -> None:
    """One product for Q, K and V, which attention reads in place; an exact Gelu is a launch of its own."""
    model, feeds = network(networks, "BERT", "float16")
    layer = [PRODUCT, "attend_few", PRODUCT, NORM, PRODUCT, "product_epilogue", PRODUCT, NORM]
    assert planned(model, feeds, *LIBRARIES) == BEFORE + layer


def test_gpt2(networks: Any) -> None:
    """A single row: products normalise it, Q, K and V are views, both caches grow in one launch."""
    model, feeds = network(networks, "GPT-2", "float16")
    row = "gemv_columns"
    layer = [row, "joined", "attend_few", row, row, row]
    assert planned(model, feeds, *LIBRARIES) == ["gather", *layer, row]


@pytest.mark.parametrize(
    ("dtype", "attention"), [("float16", "cudnn.sdpa"), ("float32", "attend")], ids=["float16", "float32"]
)
@pytest.mark.parametrize("batch", [1, 3])
def test_layers(networks: Any, dtype: str, attention: str, batch: int) -> None:
    model = layers_of(networks, dtype, 2, 24)
    feeds = {"x": np.ones((batch, 24, 3 * 64), dtype)}
    layer = [PRODUCT, attention, PRODUCT, NORM, PRODUCT, "product_epilogue", PRODUCT, NORM]
    assert planned(model, feeds, *LIBRARIES) == 2 * layer


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_layers_on_the_emulated_device(networks: Any, dtype: str, device: EmulatedDevice) -> None:
    model = layers_of(networks, dtype, 1, 9)
    x = np.random.default_rng(0).standard_normal((2, 9, 3 * 64)).astype(dtype)
    expected = onnxref.InferenceSession(model, backend="numpy").run(None, {"x": x})[0]
    found = onnxref.InferenceSession(model, backend="cupy", strict=True).run(None, {"x": x})[0]
    assert any(line.startswith("cudnn.sdpa") for line in device.log) == (dtype == "float16")
    # Of values about 1; the reference rounds to float16 more often.
    bound = 1e-5 if dtype == "float32" else 1e-2
    np.testing.assert_allclose(found.astype("f8"), expected.astype("f8"), rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_decoding_on_the_emulated_device(networks: Any, dtype: str, device: EmulatedDevice) -> None:
    model, feeds = network(networks, "GPT-2", dtype)
    expected = onnxref.InferenceSession(model, backend="numpy").run(None, feeds)
    found = onnxref.InferenceSession(model, backend="cupy", strict=True).run(None, feeds)
    assert sum("gemv_columns.gemv" in line for line in device.log) == 5
    for x, y in zip(found, expected, strict=True):
        bound = (1e-5 if dtype == "float32" else 1e-2) * np.abs(y.astype("f8")).max()
        np.testing.assert_allclose(x.astype("f8"), y.astype("f8"), rtol=0, atol=bound)


def test_gates_and_caches_of_attention(device: EmulatedDevice) -> None:
    """Five products of two rows become two."""
    rng = np.random.default_rng(0)
    names = ("wq", "wk", "wv", "wg", "wu")
    w = {name: rng.standard_normal((16, 16)).astype(np.float32) / 4 for name in names}
    text = """<ir_version: 10, opset_import: ["" : 24]>
        g (float[1, 1, 16] x, float[1, 2, 5, 8] pk, float[1, 2, 5, 8] pv, float[16, 16] wq, float[16, 16] wk,
           float[16, 16] wv, float[16, 16] wg, float[16, 16] wu) => (y, k, v) {
            q = MatMul(x, wq) a = MatMul(x, wk) b = MatMul(x, wv)
            o, k, v = Attention<q_num_heads = 2, kv_num_heads = 2>(q, a, b, , pk, pv)
            g = MatMul(o, wg) h = Swish(g) u = MatMul(o, wu) y = Mul(h, u) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in w.items())
    feeds = {"x": rng.standard_normal((1, 1, 16)).astype(np.float32)}
    feeds |= {name: rng.standard_normal((1, 2, 5, 8)).astype(np.float32) for name in ("pk", "pv")}
    expected = onnxref.InferenceSession(model, backend="numpy").run(None, feeds)
    found = onnxref.InferenceSession(model, backend="cupy", strict=True).run(None, feeds)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
    assert sum("gemv_columns.gemv" in line for line in device.log) == 2


@pytest.mark.parametrize("rows", [1, 5])
def test_merged_products_are_the_same_bits_where_precision_is_strict(
    networks: Any, rows: int, device: EmulatedDevice
) -> None:
    model = layers_of(networks, "float32", 1, rows)
    x = np.random.default_rng(0).standard_normal((1, rows, 3 * 64)).astype(np.float32)
    runs = {}
    for without in ((), ("merge_projections",)):
        session = onnxref.InferenceSession(model, backend="cupy", precision="strict", without=without)
        runs[without] = session.run(None, {"x": x})[0]
    found = [line for line in device.log if line.startswith("gemm.gemm")]
    assert len(found) == 4 + 6
    one, apart = runs.values()
    assert one.tobytes() == apart.tobytes()
