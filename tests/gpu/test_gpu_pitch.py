"""Concat and Split of channels without copies: networks whose tensors lie in each other.

Each network also runs with every tensor in memory of its own, which must give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import onnxref.gpu
from onnxref.dtypes import Array
from onnxref.gpu import Convolution, LibraryOp, LibraryRefusalError, Matmul
from onnxref.plan.specialize import DeviceProgram

from .emulator.device import EmulatedCall, EmulatedDevice
from .planned import recording
from .suite import assert_close

BOTH, BLAS, BARE = ("cublaslt", "cudnn"), ("cublaslt",), ()
COPIES = ("box.", "dense.", "joined.", "transpose.")  # `joined` is several of them


class Network:
    """A graph in the making, of one input `x` of 16 channels; nodes' outputs go by their names."""

    def __init__(self, dtype: str = "float16", seed: int = 0) -> None:
        self.dtype = np.dtype(dtype)
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.channels = {"x": 16}

    def constant(self, values: Any) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, op_type: str, *inputs: str, channels: int | None = None, **attributes: Any) -> str:
        """Add a node of one output, with the channels of its first input if nothing is said."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], **attributes))
        self.channels[name] = self.channels[inputs[0]] if channels is None else channels
        return name

    def weight(self, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:]))
        return self.constant((self.rng.standard_normal(shape) / np.sqrt(fan_in)).astype(self.dtype))

    def conv(self, x: str, outputs: int, kernel: int = 1, *, group: int = 1, then: str = "") -> str:
        """Add a convolution that keeps the size, and an activation."""
        w = self.weight(outputs, self.channels[x] // group, kernel, kernel)
        bias = self.constant(self.rng.standard_normal(outputs).astype(self.dtype))
        y = self.add("Conv", x, w, bias, channels=outputs, pads=[kernel // 2] * 4, group=group)
        return self.add(then, y) if then else y

    def concat(self, *inputs: str, axis: int = 1) -> str:
        return self.add("Concat", *inputs, channels=sum(self.channels[x] for x in inputs), axis=axis)

    def split(self, x: str, *lengths: int) -> list[str]:
        made = [f"v{len(self.nodes)}_{i}" for i in range(len(lengths))]
        sizes = self.constant(np.array(lengths))
        self.nodes.append(helper.make_node("Split", [x, sizes], made, axis=1))
        self.channels |= dict(zip(made, lengths, strict=True))
        return made

    def model(self, *outputs: str, size: Sequence[int] = (5, 6)) -> onnx.ModelProto:
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        graph = helper.make_graph(
            self.nodes,
            "pitches",
            [helper.make_tensor_value_info("x", kind, ["n", 16, *size])],
            [onnx.ValueInfoProto(name=y) for y in outputs],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)

    def feed(self, images: int = 2, size: Sequence[int] = (5, 6)) -> Array:
        return self.rng.standard_normal((images, 16, *size)).astype(self.dtype)


def run(model: onnx.ModelProto, x: Array, device: EmulatedDevice, **options: Any) -> list[Array]:
    """Run a model once for itself and once as a graph; return the outputs, which must be the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxref.gpu, "open_device", lambda: device)
        session = onnxref.InferenceSession(model, backend="cupy", **options)
        first = session.run(None, {"x": x})
        log = list(device.log)
        second = session.run(None, {"x": x})
    device.synchronize()
    device.log[:] = log
    for a, b in zip(first, second, strict=True):
        assert a.tobytes() == b.tobytes()
    return [np.asarray(y) for y in first]


def check(model: onnx.ModelProto, x: Array, libraries: Sequence[str] = BOTH, **options: Any) -> list[str]:
    """Compare a model with the reference, and with tensors that lie apart; return what was launched."""
    device = EmulatedDevice(libraries=frozenset(libraries))
    found = run(model, x, device, **options)
    apart = run(model, x, EmulatedDevice(libraries=frozenset(libraries)), without=("pitch",), **options)
    expected = onnxref.InferenceSession(model, backend="numpy").run(None, {"x": x})
    for a, b, wanted, place in zip(found, apart, expected, model.graph.output, strict=True):
        assert_close(a, wanted, place.name)
        assert a.tobytes() == b.tobytes(), place.name
    return device.log


def copies(log: Sequence[str]) -> int:
    return sum(entry.startswith(COPIES) for entry in log)


# --- networks that people use ---------------------------------------------------------------------------


def c2f(n: Network) -> str:
    """YOLOv8: halves, bottlenecks with residuals, all of which are kept."""
    parts = n.split(n.conv("x", 32, then="Sigmoid"), 16, 16)
    for _ in range(2):
        inner = n.conv(n.conv(parts[-1], 16, 3, then="Relu"), 16, 3, then="Sigmoid")
        parts.append(n.add("Add", parts[-1], inner))
    return n.conv(n.concat(*parts), 16, then="Relu")


def sppf(n: Network) -> str:
    pooled = [n.conv("x", 8, then="Relu")]
    for _ in range(3):
        pooled.append(n.add("MaxPool", pooled[-1], kernel_shape=[5, 5], pads=[2] * 4))
    return n.conv(n.concat(*pooled), 16)


def pyramid(n: Network) -> str:
    """A small image, enlarged, beside a large one."""
    small = n.add("MaxPool", n.conv("x", 16), kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 0])
    scales = n.constant(np.array([1, 1, 2, 2], np.float32))
    wide = n.add("Resize", n.conv(small, 24, then="Relu"), "", scales, mode="nearest")
    cut = n.add("Slice", wide, *(n.constant(np.array([i])) for i in (0, 5, 2)))
    return n.conv(n.concat(cut, n.conv("x", 8)), 16, 3)


def dense(n: Network) -> str:
    """DenseNet: each layer sees all before it, through a normalization."""
    found = [n.conv("x", 16, 3)]
    for _ in range(3):
        y = n.concat(*found) if len(found) > 1 else found[0]
        statistics = (n.constant(n.rng.random(n.channels[y]).astype(n.dtype) + 1) for _ in range(4))
        found.append(n.conv(n.add("Relu", n.add("BatchNormalization", y, *statistics)), 8, 3))
    return n.add("GlobalAveragePool", n.concat(*found))


def inception(n: Network) -> str:
    branches = [
        n.conv("x", 8, then="Relu"),
        n.conv(n.conv("x", 8, then="Relu"), 16, 3, then="Relu"),
        n.conv(n.conv(n.conv("x", 8), 8, 3), 24, 3, then="Relu"),
        n.conv(n.add("AveragePool", "x", kernel_shape=[3, 3], pads=[1] * 4), 8, then="Relu"),
    ]
    return n.conv(n.concat(*branches), 16, 3, then="Relu")


def unet(n: Network) -> str:
    skip = n.conv("x", 16, 3, then="Relu")
    deep = n.conv(n.add("MaxPool", skip, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), 32, 3)
    up = n.add("ConvTranspose", deep, n.weight(32, 16, 3, 3), channels=16, strides=[2, 2], pads=[1, 1, 1, 0])
    return n.conv(n.concat(skip, up), 8, 3)


def ghost(n: Network) -> str:
    """GhostNet: half of the channels are cheap copies, by windows of their own."""
    y = n.conv("x", 16, then="Relu")
    return n.conv(n.concat(y, n.conv(y, 16, 3, group=16, then="Relu")), 16)


def fire(n: Network) -> str:
    """SqueezeNet, with a residual over the joined halves."""
    y = n.conv("x", 8, then="Relu")
    y = n.concat(n.conv(y, 8, then="Relu"), n.conv(y, 8, 3, then="Relu"))
    return n.add("Relu", n.add("Add", n.conv(y, 16, 3), y))


@pytest.mark.parametrize(
    ("network", "still"),
    [(c2f, 0), (sppf, 0), (pyramid, 1), (dense, 0), (inception, 0), (unet, 0), (ghost, 0), (fire, 0)],
)
def test_networks(network: Callable[[Network], str], still: int) -> None:
    n = Network()
    assert copies(check(n.model(network(n)), n.feed())) == still


@pytest.mark.parametrize("libraries", [BOTH, BLAS])
def test_yolo_copies_no_channels(libraries: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from gpu_networks import NETWORKS

    (network,) = (one for one in NETWORKS if one.name.startswith("YOLO"))
    programs: list[DeviceProgram] = []

    def planned(self: DeviceProgram) -> None:
        programs.append(self)
        raise RuntimeError("planned")

    monkeypatch.setattr(DeviceProgram, "compile", planned)
    with recording(*libraries):
        session = onnxref.InferenceSession(network.build("float16", False), backend="cupy")
        with pytest.raises(RuntimeError, match="planned"):
            session.run(None, network.feeds("float16", 1, False))
    lowered = programs[0].lowered
    seen = [found for found in lowered if any(y and y.layout for y in found.op.outputs)]
    assert sum(found.op.op_type in ("Concat", "Split") for found in seen) == 15
    copies = [str(call) for found in seen for call in found.launches if str(call).startswith(COPIES)]
    assert copies == []


@pytest.mark.parametrize("network", [c2f, dense, unet, ghost, fire])
@pytest.mark.parametrize(
    ("libraries", "dtype"), [(BLAS, "float32"), (("cudnn",), "float16"), (BARE, "float32")]
)
def test_without_libraries(network: Callable[[Network], str], libraries: tuple[str, ...], dtype: str) -> None:
    """Kernels that take no pitches get copies."""
    n = Network(dtype)
    check(n.model(network(n)), n.feed(), libraries)


def test_each_tensor_in_memory_of_its_own() -> None:
    n = Network()
    assert copies(check(n.model(c2f(n)), n.feed(), debug=True)) == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (7,), (2, 3, 2)])
def test_other_numbers_of_pixels(size: tuple[int, ...]) -> None:
    n = Network()
    axes = len(size)
    made = []
    for _ in range(2):
        w = n.weight(8, 16, *[3] * axes)
        made.append(n.add("Relu", n.add("Conv", "x", w, channels=8, pads=[1] * (2 * axes))))
    low, high = n.split(n.concat(*made), 8, 8)
    y = n.add("Sigmoid", n.add("Mul", low, high))
    assert copies(check(n.model(y, size=size), n.feed(size=size))) == 0


# --- what must stay apart -------------------------------------------------------------------------------


def test_a_part_that_goes_outside() -> None:
    n = Network()
    a, b = n.conv("x", 16), n.conv("x", 16, 3)
    assert copies(check(n.model(n.conv(n.concat(a, b), 16), a), n.feed())) == 1


def test_a_result_that_goes_outside() -> None:
    n = Network()
    a, b = n.conv("x", 16), n.conv("x", 16, 3)
    y = n.concat(a, b)
    assert copies(check(n.model(y, n.conv(y, 8)), n.feed())) == 0


def test_an_input_of_the_model() -> None:
    n = Network()
    y = n.concat("x", n.conv("x", 16))
    check(n.model(n.conv(y, 8, 3)), n.feed())


def test_one_tensor_twice() -> None:
    n = Network()
    a, b = n.conv("x", 16), n.conv("x", 16, 3)
    first, second = n.concat(a, a, b), n.concat(b, a)
    y = n.add("Add", n.conv(first, 8), n.conv(second, 8))
    assert copies(check(n.model(y), n.feed())) == 2


def test_halves_that_change_places() -> None:
    n = Network()
    low, high = n.split(n.conv("x", 32), 16, 16)
    y = n.conv(n.concat(high, low), 8)
    assert copies(check(n.model(y), n.feed())) == 1


def test_what_nothing_wants() -> None:
    n = Network()
    low, _, high = n.split(n.conv("x", 48), 16, 8, 24)
    y = n.conv(n.concat(high, low), 8)
    assert copies(check(n.model(y), n.feed())) == 1
    n = Network()
    first, *_ = n.split(n.conv("x", 48), 16, 8, 24)
    assert copies(check(n.model(n.conv(first, 8, 3)), n.feed())) == 0


def test_channels_that_are_no_whole_accesses() -> None:
    n = Network()
    y = n.concat(n.conv("x", 12), n.conv("x", 4), n.conv("x", 16))  # 24 and 32 bytes from the begin
    assert copies(check(n.model(n.conv(y, 8)), n.feed())) == 1
    n = Network()
    assert copies(check(n.model(n.conv(n.concat(n.conv("x", 12), n.conv("x", 16)), 8)), n.feed())) == 1


def test_who_reads_all_of_a_pixel_takes_a_copy() -> None:
    n = Network()
    low, high = n.split(n.conv("x", 32, 3), 16, 16)
    y = n.add("Add", n.add("Softmax", low, axis=1), n.add("Mul", high, n.add("GlobalAveragePool", high)))
    check(n.model(y), n.feed())


def test_odd_vectors_and_broadcasts() -> None:
    """Elementwise kernels whose vectors fill no pixel, and operands of one channel or of one pixel."""
    n = Network("float32")
    a, b = n.split(n.conv("x", 12, then="Relu"), 8, 4)
    c, d = n.split(n.conv("x", 12), 4, 8)
    plane = n.add("Sigmoid", n.conv("x", 1))
    line = n.add("GlobalMaxPool", n.conv("x", 8))
    y = n.add("Mul", n.add("Add", a, d), plane)
    y = n.concat(n.add("Mul", y, line), n.add("Sub", b, c))
    check(n.model(n.add("Tanh", y)), n.feed(), BLAS)


def test_a_residual_that_lies_elsewhere() -> None:
    n = Network()
    low, high = n.split(n.conv("x", 32), 16, 16)
    for kernel in (1, 3):
        low = n.add("Relu", n.add("Add", n.conv(low, 16, kernel), high))
    y = n.conv(n.concat(low, n.add("Add", n.conv(high, 16), "x")), 8)
    check(n.model(y), n.feed())


# --- what libraries refuse ------------------------------------------------------------------------------


class Refusing(EmulatedDevice):
    """A device whose libraries do not do some operations."""

    def __init__(self, refuses: Callable[[LibraryOp], bool]) -> None:
        super().__init__()
        self.refuses = refuses
        self.asked: list[LibraryOp] = []

    def library(self, op: LibraryOp, tensors: dict[str, int]) -> EmulatedCall:
        self.asked.append(op)
        if self.refuses(op):
            raise LibraryRefusalError(op, "no")
        return super().library(op, tensors)


@pytest.mark.parametrize("kind", [Convolution, Matmul])
def test_a_library_that_wants_no_gaps(kind: type[Convolution | Matmul]) -> None:
    """Its operations get copies; it is asked for pitches once, and does what has none."""
    n = Network()
    model, x = n.model(c2f(n)), n.feed()
    device = Refusing(lambda op: isinstance(op, kind) and any(op.pitches))
    (found,) = run(model, x, device)
    (expected,) = onnxref.InferenceSession(model, backend="numpy").run(None, {"x": x})
    assert_close(found, expected, "y")
    asked = [op for op in device.asked if isinstance(op, kind)]
    assert sum(any(op.pitches) for op in asked) == 1
    assert any(entry.startswith(str(op)) for op in asked for entry in device.log)


def test_a_library_that_has_no_algorithm() -> None:
    """If it is not for the pitch that an operation is refused, others keep theirs."""
    n = Network()
    model, x = n.model(inception(n)), n.feed()
    device = Refusing(lambda op: isinstance(op, Convolution) and op.x[1] == 8)
    (found,) = run(model, x, device)
    (expected,) = onnxref.InferenceSession(model, backend="numpy").run(None, {"x": x})
    assert_close(found, expected, "y")


# --- any network ----------------------------------------------------------------------------------------


@st.composite
def networks(draw: st.DrawFn) -> tuple[onnx.ModelProto, Array]:
    """Draw a graph of convolutions, joins, cuts and elementwise operators."""
    n = Network(draw(st.sampled_from(("float16", "float32"))))
    n.conv("x", 16)

    def some() -> str:
        return draw(st.sampled_from(sorted(n.channels)))

    for _ in range(draw(st.integers(3, 9))):
        x = some()
        match draw(st.sampled_from(("conv", "concat", "concat", "split", "add", "pool"))):
            case "conv":
                n.conv(x, draw(st.sampled_from((8, 16))), draw(st.sampled_from((1, 3))), then="Relu")
            case "concat" if sum(n.channels.values()) < 400:
                n.concat(x, *(some() for _ in range(draw(st.integers(1, 2)))))
            case "split" if n.channels[x] >= 16:
                n.split(x, 8, n.channels[x] - 8)
            case "add":
                same = sorted(name for name, channels in n.channels.items() if channels == n.channels[x])
                n.add("Add", x, draw(st.sampled_from(same)))
            case "pool":
                n.add("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4)
    read = {x for node in n.nodes for x in node.input}
    outputs = [y for y in n.channels if y not in read and y != "x"]
    return n.model(*outputs, size=(3, 2)), n.feed(size=(3, 2))


@settings(max_examples=8, deadline=None)
@given(networks(), st.sampled_from((BOTH, BARE)))
def test_any_network(drawn: tuple[onnx.ModelProto, Array], libraries: tuple[str, ...]) -> None:
    check(*drawn, libraries)
