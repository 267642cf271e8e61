"""Conv, FusedConv and ConvTranspose on the emulator, held to the reference in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnxref.kernels.cupy.convolution
import onnxref.kernels.cupy.depthwise
import onnxref.kernels.cupy.pooling
import onnxref.kernels.cupy.transposed_convolution
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import onnxref
from onnxref.dtypes import Array
from onnxref.lowering import ChannelsLast, Op, Operand, Unsupported
from onnxref.registry import INTERNAL
from tests.lowered import reference

from .emulator.device import EmulatedDevice
from .lowered import run_on_device

BARE: tuple[str, ...] = ()
BLAS = ("cublaslt",)
BOTH = ("cublaslt", "cudnn")


def dtype_of(name: str) -> Any:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def normal(shape: Sequence[int], name: str = "float32", seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(tuple(shape)).astype(dtype_of(name))


def activated(y: Array, name: str, alpha: float, beta: float) -> Array:
    if not name:
        return y
    functions: dict[str, Any] = {
        "Relu": lambda: np.maximum(y, 0),
        "Clip": lambda: np.clip(y, alpha, beta),
        "LeakyRelu": lambda: np.where(y < 0, alpha * y, y),
        "Sigmoid": lambda: 1 / (1 + np.exp(-y)),
        "Tanh": lambda: np.tanh(y),
        "HardSigmoid": lambda: np.clip(alpha * y + beta, 0, 1),
        "HardSwish": lambda: y * np.clip(y / 6 + 0.5, 0, 1),
        "Silu": lambda: y / (1 + np.exp(-y)),
    }
    return np.asarray(functions[name]())


def check(
    x: Array,
    w: Array,
    b: Array | None = None,
    residual: Array | None = None,
    *,
    op_type: str = "Conv",
    libraries: Sequence[str] = BOTH,
    last: bool = True,
    x_last: bool | None = None,
    dynamic: bool = False,
    precision: str = "default",
    orders: Sequence[int] = (0, 1),
    opset: int = 22,
    roundings: int = 2,
    **attributes: Any,
) -> list[str]:
    """Hold a convolution to the tolerance of the lowering's docstring; return what was run.

    Args:
        roundings: to the type that an element may go through.
    """
    extra = {k: attributes.pop(k) for k in ("activation", "alpha", "beta") if k in attributes}
    fused = residual is not None or bool(extra)
    wide = [None if t is None else t.astype(np.float64) for t in (x, w, b)]
    (exact,) = reference(op_type, wide, attributes, opset)
    sizes = [None if t is None else np.abs(t) for t in wide]
    (bound,) = reference(op_type, sizes, attributes, opset)
    if residual is not None:
        exact, bound = exact + residual.astype(np.float64), bound + np.abs(residual.astype(np.float64))
    expected = activated(exact, extra.get("activation", ""), extra.get("alpha", 0.0), extra.get("beta", 0.0))
    device = EmulatedDevice(libraries=frozenset(libraries))
    inputs = [x, w, b, residual] if fused else [x, w] if b is None else [x, w, b]
    placed = [
        i
        for i, is_so in ((0, last if x_last is None else x_last), (3, last and residual is not None))
        if is_so
    ]
    (found,) = run_on_device(
        "FusedConv" if fused else op_type,
        inputs,
        [(expected.shape, x.dtype)],
        {**attributes, **extra},
        opset=1 if fused else opset,
        domain=INTERNAL if fused else "",
        constants=[] if dynamic else [1, 2],
        channels_last=placed,
        outputs_last=[0] if last else [],
        precision=precision,
        orders=orders,
        device=device,
    )
    assert found is not None
    depth = int(np.prod(w.shape[1:]))
    if op_type == "ConvTranspose":
        depth = int(np.prod(w.shape)) // w.shape[1]
    eps = float(np.finfo(np.float64 if x.dtype == np.float64 else np.float32).eps)
    own = float(ml_dtypes.finfo(x.dtype).eps)
    # The steepest activation here has a slope of at most 1.1.
    limit = 1.1 * (depth + 2) * eps * bound + roundings * own * bound + 1e-30
    error = np.abs(found.astype(np.float64) - expected)
    assert (error <= limit).all(), f"off by {(error / limit).max()} times the tolerance"
    return [line for line in device.log if "turned" not in line]


# --- which way ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("last", [True, False])
def test_by_cudnn(name: str, last: bool) -> None:
    x, w, b = normal((2, 16, 7, 6), name), normal((24, 16, 3, 3), name, 1), normal((24,), name, 2)
    libraries = ("cudnn",) if name == "float32" else BOTH
    log = check(x, w, b, pads=(1, 1, 1, 1), strides=(2, 1), last=last, libraries=libraries)
    assert log[0].startswith(f"cudnn.convolution({name}")
    assert ("+bias" in log[0]) == (name != "float32")  # exact float32 is not fused


@pytest.mark.parametrize(
    ("name", "activation"), [("float16", "Relu"), ("float16", "Silu"), ("float32", "Relu")]
)
def test_cudnn_with_residual(name: str, activation: str) -> None:
    x, w, b = normal((1, 8, 5, 5), name), normal((8, 8, 3, 3), name, 1), normal((8,), name, 2)
    residual = normal((1, 8, 5, 5), name, 3)
    log = check(x, w, b, residual, activation=activation, pads=(1, 1, 1, 1), roundings=3)
    if name == "float16":
        assert log[0].endswith("+bias+residual" + "+Relu" * (activation == "Relu") + ")")


@pytest.mark.parametrize(("activation", "residual"), [("Relu", False), ("Relu", True), ("", True)])
def test_cudnn_is_given_a_bias_for_what_it_fuses(activation: str, residual: bool) -> None:
    """Its ready-made kernels have one; the one that stands in changes nothing, the sign of zero neither."""
    x, w = normal((1, 8, 5, 5), "float16"), normal((8, 8, 3, 3), "float16", 1)
    added = normal((1, 8, 3, 3), "float16", 3) if residual else None
    log = check(x, w, None, added, activation=activation, roundings=3)
    assert "+bias" in log[0]
    assert "+bias" not in check(x, w)[0]


def test_cudnn_tf32_and_groups_and_axes() -> None:
    x, w = normal((1, 8, 9)), normal((8, 8, 3), seed=1)
    assert "cudnn" in check(x, w, dilations=(2,), precision="tf32")[0]
    x, w = normal((1, 32, 5, 5), "float16"), normal((16, 16, 3, 3), "float16", 1)
    log = check(x, w, normal((16,), "float16", 2), group=2)
    assert "cudnn" in log[0]
    assert "epilogue" in log[2 if len(log) > 4 else 1]
    x, w = normal((1, 8, 3, 4, 5), "float16"), normal((8, 8, 2, 2, 2), "float16", 1)
    assert "cudnn" in check(x, w, normal((8,), "float16", 2), pads=(1, 0, 1, 1, 0, 1))[0]


def test_what_cudnn_is_not_asked() -> None:
    x, w = normal((1, 8, 6, 6), "float16"), normal((8, 8, 3, 3), "float16", 1)
    assert "im2col" in check(x, w, pads=(0, 0, 1, 1), strides=(2, 2))[0]  # not symmetric
    assert "cudnn" in check(x, w, pads=(1, 1, 0, 0), strides=(2, 2))[0]  # as good as symmetric
    assert "im2col" in check(x[:, :6], w[:, :6])[0]
    assert "im2col" in check(x, w[:6])[0]
    assert "im2col" in check(x, w, precision="strict")[0]
    x, w = normal((1, 8, 6, 6)), normal((8, 8, 3, 3), seed=1)
    assert "im2col" in check(x, w)[0]  # exact float32
    assert "im2col" in check(x, w, dilations=(2, 2), libraries=("cudnn",))[0]


@pytest.mark.parametrize("libraries", [BLAS, BARE])
@pytest.mark.parametrize("last", [True, False])
def test_rows(last: bool, libraries: tuple[str, ...]) -> None:
    for c, m, name in ((3, 5, "float32"), (16, 8, "float16"), (4, 8, "float64")):
        x, w, b = normal((2, c, 6, 9), name), normal((m, c, 3, 2), name, 1), normal((m,), name, 2)
        log = check(
            x, w, b, pads=(1, 0, 2, 1), strides=(1, 2), dilations=(2, 1), last=last, libraries=libraries
        )
        assert "im2col" in log[0]


def test_rows_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxref.kernels.cupy.convolution, "_SLICE_BYTES", 20000)
    monkeypatch.setattr(onnxref.kernels.cupy.convolution, "_SLICE_ROWS", 1)
    x, w, b = normal((3, 8, 11, 11)), normal((8, 8, 3, 3), seed=1), normal((8,), seed=2)
    residual = normal((3, 8, 11, 11), seed=3)
    log = check(x, w, b, residual, activation="Relu", pads=(1,) * 4, libraries=BLAS, orders=(0,))
    assert sum("im2col" in line for line in log) == 3


def test_pixels() -> None:
    x, w, b = normal((2, 12, 5, 4)), normal((8, 12, 1, 1), seed=1), normal((8,), seed=2)
    residual = normal((2, 8, 5, 4), seed=3)
    assert check(x, w, b, residual, activation="Relu", orders=(0,))[0].startswith("cublasLt")
    check(x, w, b, residual, activation="Sigmoid", last=False)
    assert "gemm" in check(x, w, libraries=BARE)[0]
    assert "gemv" in check(normal((1, 12, 1, 1)), w, b)[0]  # squeeze and excitation
    assert "im2col" in check(x, w, strides=(2, 2), libraries=BLAS)[0]
    check(x, w, b, dynamic=True)


@pytest.mark.parametrize("activation", ["Clip", "LeakyRelu", "HardSigmoid", "HardSwish", "Tanh"])
def test_activations(activation: str) -> None:
    x, w = normal((1, 4, 5, 5)), normal((4, 4, 3, 3), seed=1)
    check(x, w, normal((4,), seed=2), activation=activation, alpha=0.25, beta=0.5, orders=(0,))


@pytest.mark.parametrize("libraries", [BOTH, BLAS])
def test_dynamic_weights(libraries: tuple[str, ...]) -> None:
    x, w, b = normal((1, 8, 5, 5), "float16"), normal((8, 8, 3, 3), "float16", 1), normal((8,), "float16", 2)
    check(x, w, b, pads=(1,) * 4, dynamic=True, libraries=libraries)
    check(normal((1, 6, 7, 5)), normal((6, 1, 3, 3), seed=1), group=6, dynamic=True)
    check(normal((1, 6, 7, 5)), normal((4, 3, 3, 3), seed=1), group=2, dynamic=True, libraries=libraries)


# --- depthwise and grouped ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "strides", "name"),
    [
        ((3, 3), (1, 1), "float32"),
        ((3, 3), (2, 2), "float16"),
        ((5, 5), (1, 1), "float16"),
        ((7, 7), (1, 1), "bfloat16"),
    ],
)
def test_depthwise(kernel: tuple[int, int], strides: tuple[int, int], name: str) -> None:
    half = kernel[0] // 2
    x, w, b = normal((2, 12, 9, 11), name), normal((12, 1, *kernel), name, 1), normal((12,), name, 2)
    log = check(x, w, b, group=12, strides=strides, pads=(half,) * 4, activation="Relu")
    assert "depthwise" in log[0]


@pytest.mark.parametrize("busy", [1, 300, 1200])
def test_depthwise_tiles(monkeypatch: pytest.MonkeyPatch, busy: int) -> None:
    monkeypatch.setattr(onnxref.kernels.cupy.depthwise, "BUSY", busy)
    x, w = normal((1, 6, 10, 9)), normal((6, 1, 3, 3), seed=1)
    check(x, w, group=6, pads=(1, 0, 1, 2), residual=normal((1, 6, 10, 9), seed=2))
    check(normal((2, 5, 13)), normal((5, 1, 4), seed=1), group=5, strides=(2,), last=False)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("name", ["float32", "float64", "float16"])
def test_groups(name: str, last: bool) -> None:
    x, w, b = normal((2, 12, 6, 7), name), normal((24, 4, 3, 3), name, 1), normal((24,), name, 2)
    log = check(
        x, w, b, group=3, pads=(1, 2, 0, 1), strides=(1, 2), dilations=(2, 1), last=last, libraries=BARE
    )
    assert "direct" in log[0]


def test_direct_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxref.kernels.cupy.convolution, "BUSY", 4)
    x, w = normal((2, 6, 6, 7)), normal((6, 3, 3, 3), seed=1)
    check(x, w, normal((6,), seed=2), group=2, libraries=BARE, pads=(1,) * 4, residual=normal((2, 6, 6, 7)))
    check(normal((1, 8, 6, 9)), normal((8, 1, 3, 3), seed=1), group=8, dilations=(2, 2))  # dilated depthwise
    check(normal((1, 4, 3, 5, 5)), normal((4, 1, 2, 3, 3), seed=1), group=4)
    check(normal((1, 4, 6, 9)), normal((8, 1, 3, 3), seed=1), group=4, last=False)  # two outputs a channel


def test_stem_stays_plain() -> None:
    x, w, b = (
        normal((1, 3, 11, 13), "float16"),
        normal((8, 3, 7, 7), "float16", 1),
        normal((8,), "float16", 2),
    )
    op = Op("Conv", [Operand(x.shape, x.dtype), Operand(w.shape, w.dtype)], [None])
    use = onnxref.kernels.cupy.convolution.blocked_conv(op, 1)
    assert use is not None
    assert use.prefers
    assert not use.inputs
    log = check(x, w, b, strides=(2, 2), pads=(3,) * 4, x_last=False)
    assert "im2col" in log[0]
    assert len(log) == 2 * 2


# --- transposed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("libraries", [BOTH, BARE])
@pytest.mark.parametrize("name", ["float32", "float16", "float64"])
def test_transposed(name: str, libraries: tuple[str, ...]) -> None:
    x, w, b = normal((2, 8, 4, 5), name), normal((8, 16, 3, 2), name, 1), normal((16,), name, 2)
    for last, dynamic in ((True, False), (False, True)):
        log = check(
            x,
            w,
            b,
            op_type="ConvTranspose",
            strides=(2, 2),
            pads=(1, 0, 1, 0),
            output_padding=(1, 0),
            libraries=libraries,
            last=last,
            dynamic=dynamic,
            orders=(0,),
            roundings=5,
        )
        assert any(("deconvolution" if name == "float16" and libraries else "col2im") in line for line in log)


@pytest.mark.parametrize("last", [True, False])
def test_transposed_groups(last: bool) -> None:
    for m, shape, kernel in ((4, (5, 4), (3, 2)), (3, (7,), (4,)), (1, (2, 3, 2), (2, 2, 3))):
        x, w = normal((2, 6, *shape)), normal((6, m, *kernel), seed=1)
        strides = (2,) * len(shape)
        log = check(
            x, w, normal((2 * m,), seed=2), op_type="ConvTranspose", group=2, strides=strides, last=last
        )
        assert "transposed" in log[0]


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_transposed_attributes(auto_pad: str) -> None:
    x, w = normal((1, 3, 5, 4)), normal((3, 2, 3, 3), seed=1)
    for opset in (1, 11):
        check(x, w, op_type="ConvTranspose", auto_pad=auto_pad, strides=(2, 2), opset=opset, orders=(0,))
    check(x, w, op_type="ConvTranspose", output_shape=(12, 9), strides=(2, 2), dilations=(2, 1), orders=(0,))


# --- a whole network ---------------------------------------------------------------------------------

NETWORK = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[2, 3, 20, 20] x) => (y) {
    a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w1)
    ar = Relu (a)
    d = Conv <group = 16, pads = [1, 1, 1, 1]> (ar, wd)
    dr = Clip (d, low, high)
    p = Conv (dr, w2)
    s = Add (p, ar)
    sr = Relu (s)
    m = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (sr)
    c = Conv <pads = [1, 1, 1, 1]> (m, w3, b3)
    cr = HardSwish (c)
    t = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2]> (cr, w4)
    y = GlobalAveragePool (t)
}
"""


def test_network_stays_with_the_channels_last(device: EmulatedDevice) -> None:
    shapes = {"w1": (16, 3, 3, 3), "wd": (16, 1, 3, 3), "w2": (16, 16, 1, 1), "w3": (24, 16, 3, 3)}
    shapes |= {"b3": (24,), "w4": (24, 8, 2, 2)}
    model = onnx.parser.parse_model(NETWORK)
    weights = {name: normal(shape, seed=len(name)) / 4 for name, shape in shapes.items()}
    weights |= {"low": np.float32(0), "high": np.float32(6)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(w), k) for k, w in weights.items())
    x = normal((2, 3, 20, 20))
    (expected,) = onnxref.run(model, [x], backend="numpy").values()
    session = onnxref.InferenceSession(model, backend="cupy")
    (found,) = session.run(None, {"x": x})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not [row.operator for row in session.explain() if row.kind == "reference"]
    assert not [line for line in device.log if "turned" in line]
    assert [line.partition(".")[0] for line in device.log[:4]] == [
        "im2col",
        "cublasLt",
        "depthwise",
        "cublasLt",
    ]


# --- corners -----------------------------------------------------------------------------------------


def test_empty() -> None:
    for x, w in (
        (np.zeros((0, 3, 4, 4), np.float32), normal((2, 3, 3, 3))),
        (np.zeros((1, 0, 4, 4), np.float32), np.zeros((2, 0, 3, 3), np.float32)),
        (np.zeros((1, 3, 4, 4), np.float32), np.zeros((0, 3, 3, 3), np.float32)),
    ):
        check(x, w, last=False, orders=(0,))
    check(np.zeros((1, 0, 4, 4), np.float32), np.zeros((2, 0, 3, 3), np.float32), normal((2,)), last=False)
    empty = np.zeros((1, 3, 0, 4), np.float32)
    check(empty, normal((2, 3, 1, 1)), last=False)
    check(empty, normal((3, 2, 3, 3)), op_type="ConvTranspose", last=False, pads=(0, 0, 0, 0))


def test_nan_goes_where_its_windows_are() -> None:
    x, w = normal((1, 4, 6, 6)), normal((4, 4, 3, 3), seed=1)
    x[0, 2, 3, 3], x[0, 1, 0, 0] = np.nan, np.inf
    (expected,) = reference("Conv", [x, w], {}, 22)
    for group, libraries in ((1, BARE), (4, BOTH)):
        kernel = w[:, : 4 // group]
        (expected,) = reference("Conv", [x, kernel], {"group": group}, 22)
        device = EmulatedDevice(libraries=frozenset(libraries))
        (found,) = run_on_device(
            *("Conv", [x, kernel], [(expected.shape, x.dtype)], {"group": group}),
            constants=[1],
            device=device,
            orders=(0,),
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(1, 2),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(*[st.integers(0, 3)] * 4),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.sampled_from([BOTH, BARE]),
    st.booleans(),
)
def test_any_window(
    n: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    dilations: tuple[int, int],
    libraries: tuple[str, ...],
    last: bool,
) -> None:
    for i in (0, 1):
        if size[i] + pads[i] + pads[2 + i] < (kernel[i] - 1) * dilations[i] + 1:
            return
    x, w = normal((n, 4, *size)), normal((4, 4, *kernel), seed=1)
    given_attributes = {"strides": strides, "pads": pads, "dilations": dilations}
    check(x, w, libraries=libraries, last=last, orders=(0,), **given_attributes)
    check(x, w, op_type="ConvTranspose", libraries=libraries, last=last, orders=(0,), strides=strides)


def test_refusals() -> None:
    x = normal((1, 4, 5, 5))
    with pytest.raises(Unsupported, match="channels"):
        run_on_device("Conv", [x, normal((4, 3, 3, 3))], [((1, 4, 3, 3), np.float32)])
    w = normal((4, 4, 3, 3))
    w[0, 0, 0, 0] = np.inf
    with pytest.raises(Unsupported, match="finite"):
        run_on_device("Conv", [x, w], [((1, 4, 5, 5), np.float32)], {"pads": (1,) * 4}, constants=[1])
    shape = (1, 2, 1, 1, 1, 1)
    with pytest.raises(Unsupported, match="rank 6"):
        run_on_device("Conv", [np.zeros(shape, np.float32)] * 2, [(shape, np.float32)])


def test_rule_takes_the_residual_along() -> None:
    shape, dtype = (1, 16, 8, 8), np.dtype(np.float32)
    x, r, w = Operand(shape, dtype), Operand(shape, dtype), Operand((16, 16, 1, 1), dtype)
    use = onnxref.kernels.cupy.convolution.blocked_conv(Op("FusedConv", [x, w, None, r], [None]), 1)
    assert use is not None
    assert set(use.inputs) == {0, 3}
    assert ChannelsLast().extents(shape) == (1, 1, 8, 8, 16)
