"""Products of few rows: normalised on their way, shared by blocks, chosen by shape."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx.parser
import onnxref.kernels.cupy.normalization
import pytest
from onnxref.kernels.cupy.linalg import _lanes, _splits

import onnxref
from onnxref.dtypes import Array
from onnxref.lowering import Op, Operand, Site, Unsupported, find_lowering
from onnxref.registry import INTERNAL
from tests.lowered import reference

from .emulator.device import EmulatedDevice
from .lowered import run_on_device

LAYER, RMS = "LayerNormalization", "RMSNormalization"


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _normal(shape: tuple[int, ...], name: str, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(_dtype(name))


def _run(op_type: str, inputs: list[Array | None], shape: tuple[int, ...], **attributes: Any) -> Array:
    internal = op_type.endswith("MatMul")
    (y,) = run_on_device(
        *(op_type, inputs, [(shape, inputs[0].dtype)], attributes),  # type: ignore[union-attr]  # x is there
        opset=1 if internal else 23,
        domain=INTERNAL if internal else "",
        device=EmulatedDevice(),
    )
    assert y is not None
    return y


# Shape of A, whether B lies as (N, K), the type, the normalisation.
NORMALIZED: list[tuple[tuple[int, ...], int, str, str]] = [
    *(((1, 1, 768), trans_b, "float16", kind) for trans_b in (0, 1) for kind in (LAYER, RMS)),
    ((4, 40), 0, "float16", LAYER),  # a row for a few threads
    ((1, 40), 1, "bfloat16", RMS),
    ((2, 71), 0, "float32", LAYER),  # elements one by one
    ((2, 71), 1, "float32", LAYER),
    ((3, 260), 0, "float32", RMS),
    ((2, 1, 4104), 0, "bfloat16", LAYER),  # more threads for a row than a block of the product has
    ((1, 4104), 1, "float32", LAYER),
    ((1, 8192), 0, "float16", RMS),
]


@pytest.mark.parametrize(("shape", "trans_b", "name", "kind"), NORMALIZED)
def test_normalized_as_by_two_launches(shape: tuple[int, ...], trans_b: int, name: str, kind: str) -> None:
    """To the bit; with bias, residual and activation behind."""
    k, n, rest = shape[-1], 21, shape[:-1]
    x, gain = _normal(shape, name), _normal((k,), name, 1)
    shift = _normal((k,), name, 2) if kind == LAYER else None
    b = _normal((n, k) if trans_b else (k, n), name, 3)
    x = (3 * x + 1).astype(x.dtype)
    after = {"trans_b": trans_b, "activation": "GeluTanh", "scale": 0.125}
    addends: list[Array | None] = [_normal((n,), name, 4), _normal((*rest, n), name, 5)]
    a = _run(kind, [x, gain, *([] if shift is None else [shift])], shape, epsilon=1e-4)
    wanted = _run("FusedMatMul", [a, b, *addends], (*rest, n), **after)
    norm = {"is_rms": int(kind == RMS), "epsilon": 1e-4}
    found = _run("NormalizedMatMul", [x, gain, shift, b, *addends], (*rest, n), **after, **norm)
    assert found.tobytes() == wanted.tobytes()
    (expected,) = reference("NormalizedMatMul", [x, gain, shift, b, *addends], {**after, **norm}, 1, INTERNAL)
    eps = float(ml_dtypes.finfo(x.dtype).eps)
    np.testing.assert_allclose(
        found.astype(np.float64), expected.astype(np.float64), rtol=8 * eps, atol=64 * eps
    )


def test_rows_with_nan_and_infinity() -> None:
    x, b = _normal((3, 40), "float32"), _normal((40, 9), "float32", 1)
    x[0, 3], x[1, 7] = np.nan, np.inf
    y = _run("NormalizedMatMul", [x, np.ones(40, np.float32), None, b], (3, 9), is_rms=0, epsilon=1e-5)
    assert np.isnan(y[:2]).all()
    assert np.isfinite(y[2]).all()


def test_normalized_refuses() -> None:
    for shape, name in (((5, 8), "float32"), ((2, 8), "float64")):
        x, b = _normal(shape, name), _normal((8, 3), name)
        with pytest.raises(Unsupported, match="normalised"):
            _run("NormalizedMatMul", [x, x[0], None, b], (shape[0], 3), epsilon=1e-5)


MODEL = """<ir_version: 10, opset_import: ["" : 23]>
    g (float[1, n, 64] x) => (y) <float[64] s, float[64] t, float[64, 40] w, float[40] c, float[40, 64] v> {
        a = LayerNormalization<axis = -1>(x, s, t) b = MatMul(a, w) d = Add(b, c) e = Gelu(d)
        f = MatMul(e, v) g = Add(x, f) h = RMSNormalization(g, s) i = MatMul(h, w) y = Add(i, c) }"""


def test_a_model_of_few_rows_is_one_launch_for_each_product(device: EmulatedDevice) -> None:
    proto = onnx.parser.parse_model(MODEL)
    for i, value in enumerate(proto.graph.value_info):
        shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        array = _normal(shape, "float32", i) / 4
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
    session = onnxref.InferenceSession(proto, backend="cupy")
    plain = onnxref.InferenceSession(proto, backend="numpy")
    for rows, count in ((2, 3), (2, 3), (6, 6)):
        x = _normal((1, rows, 64), "float32", rows)
        device.log.clear()
        (y,) = session.run(None, {"x": x})
        np.testing.assert_allclose(y, plain.run(None, {"x": x})[0], rtol=1e-5, atol=1e-5)
        assert len(device.log) == (1 if device.log[0].startswith("graph") else count)


# Choices ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "k", "access", "size", "lanes"),
    [
        (768, 768, 16, 2, 2),  # 48 blocks of 24 KB, all of it on its way
        (3072, 768, 16, 2, 2),
        (50264, 768, 16, 2, 8),  # rows of 128 bytes
        (50257, 768, 2, 2, 32),
        (200000, 32, 16, 2, 32),  # where narrow ones would leave threads without a row
    ],
)
def test_lanes(columns: int, k: int, access: int, size: int, lanes: int) -> None:
    assert _lanes(columns, k, access, size) == lanes


@pytest.mark.parametrize(
    ("blocks", "k", "splits"),
    [(48, 768, (1, 1024)), (48, 2048, (1, 2048)), (48, 3072, (3, 1024)), (264, 8192, (1, 8192))],
)
def test_splits(blocks: int, k: int, splits: tuple[int, int]) -> None:
    assert _splits(blocks, k, 1024) == splits


def test_one_matrix_needs_no_table() -> None:
    """Where a kernel's first step is to read it, everything else waits."""
    a, b, y = (Operand(shape, np.dtype(np.float32)) for shape in ((1, 64), (64, 32), (1, 32)))
    site = Site(Op("MatMul", [a, b], [y]))
    lowering = find_lowering("cupy", "", "MatMul", 13)
    assert lowering is not None
    lowering.emit(site, a, b)
    (launch,) = site.launches
    assert launch.arguments[5] == 0  # type: ignore[union-attr]  # it is a kernel's
