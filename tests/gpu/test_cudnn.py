"""Our use of cuDNN, held to its own front end: what we say is what it takes, up to where a card is needed.

The front end is the real one over a library that knows its version alone, so that it checks names, types and
shapes; from `build_operation_graph` on calls are only noted.
"""

from __future__ import annotations

import builtins
import ctypes
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onnxref.errors import BackendError, MissingDependencyError
from onnxref.gpu import Attention, Convolution
from onnxref.gpu._cudnn import Cudnn, last_strides, load_cudnn, row_strides

cudnn = pytest.importorskip("cudnn")

_STUB = """
#include <stddef.h>
size_t cudnnGetVersion(void) { return 91900; }
size_t cudnnGetCudartVersion(void) { return 13000; }
const char *cudnnGetErrorString(int status) { return "stub"; }
void cudnnGetLastErrorString(char *message, size_t size) { if (size) message[0] = 0; }
"""
_LATER = (
    *("build_operation_graph", "create_execution_plans", "deselect_numeric_notes"),
    *("deselect_workspace_greater_than", "check_support", "build_plans", "deserialize"),
)
HANDLE, STREAM, WORKSPACE = 77, 0xCAFE, 0x1000


class Graph:
    """The real graph, with all that needs a card replaced by a note of the call."""

    def __init__(self, owner: FrontEnd, **options: Any) -> None:
        self.owner = owner
        self.real = cudnn.pygraph(**options)
        self.options = options
        self.tensors: dict[str, Any] = {}
        self.calls: list[tuple[str, Any]] = []
        self.executed: list[tuple[Any, ...]] = []

    def tensor(self, *, name: str, **given: Any) -> Any:
        self.tensors[name] = self.real.tensor(name=name, **given)
        return self.tensors[name]

    def validate(self) -> None:
        self.calls.append(("validate", None))
        if "sdpa" not in dict(self.calls):  # which asks the driver
            self.real.validate()

    def serialize(self) -> list[int]:
        if self.owner.keeps is None:
            raise RuntimeError("this engine cannot be kept")
        return list(self.owner.keeps)

    def get_workspace_size(self) -> int:
        return self.owner.needs

    def execute(self, addresses: Any, workspace: int, handle: int) -> None:
        self.executed.append((addresses, workspace, handle))

    def __getattr__(self, name: str) -> Any:
        if name in _LATER:

            def note(*given: Any) -> None:
                self.calls.append((name, given))
                if name in self.owner.refuses:
                    raise self.owner.refuses[name]

            return note

        def real(**given: Any) -> Any:
            self.calls.append((name, given))
            made = getattr(self.real, name)(**given)
            self.tensors["result"] = made[0] if isinstance(made, list) else made
            return made

        return real


class FrontEnd:
    """The module `cudnn`; its graphs are kept in order."""

    def __init__(self) -> None:
        self.graphs: list[Graph] = []
        self.refuses: dict[str, Exception] = {}
        self.keeps: bytes | None = b"plan\nwith any bytes\x00\xff"
        self.needs = 0
        self.streams: list[tuple[int, int]] = []
        self.destroyed: list[int] = []

    def pygraph(self, **options: Any) -> Graph:
        self.graphs.append(Graph(self, **options))
        return self.graphs[-1]

    def create_handle(self) -> int:
        return HANDLE

    def set_stream(self, handle: int, stream: int) -> None:
        self.streams.append((handle, stream))

    def destroy_handle(self, handle: int) -> None:
        self.destroyed.append(handle)

    def __getattr__(self, name: str) -> Any:
        return getattr(cudnn, name)


@pytest.fixture(scope="module", autouse=True)
def _library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if _has_cudnn():
        yield
        return
    folder = tmp_path_factory.mktemp("cudnn")
    (folder / "stub.c").write_text(_STUB)
    subprocess.run(["g++", "-x", "c", "-shared", "-fPIC", "stub.c", "-o", "stub.so"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "stub.so"))
    cudnn._pybind_module._set_dlhandle_cudnn(library._handle)
    yield
    cudnn._pybind_module._set_dlhandle_cudnn(0)


def _has_cudnn() -> bool:
    """Whether the front end has found cuDNN; asking it would make it remember that it has not."""
    found = Path(sysconfig.get_path("purelib"), "nvidia").glob("cudnn*/lib/libcudnn.so.*")
    try:
        return bool([*found] or ctypes.CDLL("libcudnn.so.9"))
    except OSError:
        return False


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FrontEnd:
    kept: dict[str, tuple[str, bytes]] = {}
    monkeypatch.setattr("onnxref.gpu._cudnn.load_code", kept.get)
    monkeypatch.setattr("onnxref.gpu._cudnn.store_code", lambda key, *value: kept.update({key: value}))
    return FrontEnd()


def opened(front: FrontEnd, device: str = "H200", nbytes: int = 4096) -> Cudnn:
    return Cudnn(WORKSPACE, nbytes, STREAM, device, front)


def convolution(**changes: Any) -> Convolution:
    given: dict[str, Any] = {
        "x": (2, 16, 7, 9),
        "w": (8, 16, 3, 3),
        "y": (2, 8, 4, 9),
        "dtype": "float16",
        "strides": (2, 1),
        "dilations": (1, 1),
        "pads": (1, 1, 1, 1),
    }
    return Convolution(**{**given, **changes})


def described(tensor: Any) -> tuple[Any, ...]:
    return tuple(tensor.get_dim()), tuple(tensor.get_stride()), tensor.get_data_type(), tensor.get_uid()


def test_strides() -> None:
    assert row_strides((2, 3, 4)) == (12, 4, 1)
    assert last_strides((2, 3, 4, 5)) == (60, 1, 15, 3)
    assert last_strides((1, 8, 1, 1)) == (8, 1, 8, 8)
    assert last_strides((2, 3, 4, 5), 8) == (160, 1, 40, 8)


def test_fused_convolution(front: FrontEnd) -> None:
    op = convolution(has_bias=True, has_residual=True, activation="Relu")
    run = opened(front).prepare(op, {"x": 1000, "w": 2000, "bias": 3000, "residual": 4000, "y": 5000})
    (graph,) = front.graphs
    half, single = cudnn.data_type.HALF, cudnn.data_type.FLOAT
    assert front.streams == [(HANDLE, STREAM)]
    assert graph.options == {
        "io_data_type": half,
        "intermediate_data_type": single,
        "compute_data_type": single,
        "handle": HANDLE,
    }
    assert described(graph.tensors["x"]) == ((2, 16, 7, 9), (1008, 1, 144, 16), half, 1)
    assert described(graph.tensors["w"]) == ((8, 16, 3, 3), (144, 1, 48, 16), half, 2)
    assert described(graph.tensors["bias"]) == ((1, 8, 1, 1), (8, 1, 8, 8), half, 3)
    assert described(graph.tensors["residual"]) == ((2, 8, 4, 9), (288, 1, 72, 8), half, 4)
    assert described(graph.tensors["result"]) == ((2, 8, 4, 9), (288, 1, 72, 8), half, 5)
    assert [name for name, _ in graph.calls] == [
        *("conv_fprop", "add", "add", "relu", "validate"),
        *("build_operation_graph", "create_execution_plans", "deselect_numeric_notes"),
        *("deselect_workspace_greater_than", "check_support", "build_plans"),
    ]
    told = dict(graph.calls)
    windows = {key: told["conv_fprop"][key] for key in ("pre_padding", "post_padding", "stride", "dilation")}
    assert windows == {
        "pre_padding": [1, 1],
        "post_padding": [1, 1],
        "stride": [2, 1],
        "dilation": [1, 1],
    }
    assert told["create_execution_plans"] == ([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK],)
    assert told["deselect_workspace_greater_than"] == (4096,)
    assert not graph.executed
    run()
    assert graph.executed == [({1: 1000, 2: 2000, 3: 3000, 4: 4000, 5: 5000}, WORKSPACE, HANDLE)]


@pytest.mark.parametrize(
    ("dtype", "tf32", "forbids"),
    [("float32", False, True), ("float32", True, False), ("bfloat16", False, False)],
)
def test_tf32_is_forbidden_unless_asked_for(front: FrontEnd, dtype: str, tf32: bool, forbids: bool) -> None:
    opened(front).prepare(convolution(dtype=dtype, tf32=tf32), {"x": 1, "w": 2, "y": 3})
    (notes,) = dict(front.graphs[0].calls)["deselect_numeric_notes"]
    note = cudnn.numerical_note
    assert (note.TENSOR_CORE in notes) == (note.DOWN_CONVERT_INPUTS in notes) == forbids
    assert {note.NONDETERMINISTIC, note.REDUCED_PRECISION_REDUCTION, note.WINOGRAD, note.FFT} <= set(notes)


def test_other_convolutions(front: FrontEnd) -> None:
    dnn = opened(front)
    dnn.prepare(convolution(w=(8, 4, 3, 3), groups=4), {"x": 1, "w": 2, "y": 3})
    volume = convolution(
        x=(1, 8, 4, 5, 6),
        w=(8, 8, 2, 2, 2),
        y=(1, 8, 4, 5, 6),
        strides=(1,) * 3,
        dilations=(1,) * 3,
        pads=(1, 0, 1, 0, 1, 0),
    )
    dnn.prepare(volume, {"x": 1, "w": 2, "y": 3})
    assert described(front.graphs[1].tensors["result"])[:2] == ((1, 8, 4, 5, 6), (960, 1, 240, 48, 8))
    told = dict(front.graphs[1].calls)["conv_fprop"]
    assert (told["pre_padding"], told["post_padding"]) == ([1, 0, 1], [0, 1, 0])


def test_pitches(front: FrontEnd) -> None:
    """Tensors that are a range of the channels of wider ones."""
    op = convolution(has_bias=True, has_residual=True, activation="Relu", pitches=(32, 24, 40))
    opened(front).prepare(op, {"x": 16, "w": 32, "bias": 48, "residual": 64, "y": 80})
    tensors = front.graphs[0].tensors
    assert described(tensors["x"])[:2] == ((2, 16, 7, 9), (2016, 1, 288, 32))
    assert described(tensors["residual"])[:2] == ((2, 8, 4, 9), (1440, 1, 360, 40))
    assert described(tensors["result"])[:2] == ((2, 8, 4, 9), (864, 1, 216, 24))
    assert described(tensors["w"])[:2] == ((8, 16, 3, 3), (144, 1, 48, 16))


def test_transposed_convolution(front: FrontEnd) -> None:
    op = convolution(
        x=(2, 16, 4, 5), w=(16, 8, 3, 2), y=(2, 8, 8, 10), strides=(2, 2), pads=(1, 0, 1, 0), transposed=True
    )
    opened(front).prepare(op, {"x": 1, "w": 2, "y": 3})
    (graph,) = front.graphs
    told = dict(graph.calls)["conv_dgrad"]
    assert told["loss"] is graph.tensors["x"]
    assert told["filter"] is graph.tensors["w"]
    assert (told["pre_padding"], told["post_padding"], told["stride"]) == ([1, 0], [1, 0], [2, 2])
    assert described(graph.tensors["result"])[:2] == ((2, 8, 8, 10), (640, 1, 80, 8))


@pytest.mark.parametrize("lengths", [(16, 16), (3, 16)])
def test_attention(front: FrontEnd, lengths: tuple[int, int]) -> None:
    short, long = lengths
    op = Attention(2, 4, 2, short, long, 64, 32, "bfloat16", 0.125, causal=True, bias_shape=(4, short, long))
    run = opened(front).prepare(op, {"q": 10, "k": 20, "v": 30, "bias": 40, "y": 50})
    (graph,) = front.graphs
    kind = cudnn.data_type.BFLOAT16
    assert described(graph.tensors["q"]) == ((2, 4, short, 64), row_strides((2, 4, short, 64)), kind, 6)
    assert described(graph.tensors["k"])[0] == (2, 2, long, 64)
    assert described(graph.tensors["v"])[:2] == ((2, 2, long, 32), (64 * long, 32 * long, 32, 1))
    assert described(graph.tensors["bias"])[:2] == ((1, 4, short, long), row_strides((1, 4, short, long)))
    assert described(graph.tensors["result"])[0] == (2, 4, short, 32)
    told = dict(graph.calls)["sdpa"]
    where = cudnn.diagonal_alignment
    assert told["attn_scale"] == 0.125
    assert told["generate_stats"] is False
    assert told["diagonal_band_right_bound"] == 0
    assert told["diagonal_alignment"] == (where.TOP_LEFT if short == long else where.BOTTOM_RIGHT)
    run()
    assert graph.executed[0][0] == {6: 10, 7: 20, 8: 30, 3: 40, 5: 50}


def test_attention_of_heads_side_by_side(front: FrontEnd) -> None:
    """Q, K and V are thirds of (B, L, 3 * H * D), Y is (B, L, H * D): no layout is like another's."""
    packed, apart = (16 * 192, 16, 192), (16 * 64, 16, 64)
    op = Attention(2, 4, 4, 16, 16, 16, 16, "float16", 1.0, strides=(packed, packed, packed, apart))
    opened(front).prepare(op, {"q": 0, "k": 128, "v": 256, "y": 4096})
    (graph,) = front.graphs
    for role in "qkv":
        assert described(graph.tensors[role])[:2] == ((2, 4, 16, 16), (*packed, 1))
    assert described(graph.tensors["result"])[:2] == ((2, 4, 16, 16), (*apart, 1))


def test_attention_without_mask(front: FrontEnd) -> None:
    opened(front).prepare(Attention(1, 2, 2, 4, 4, 8, 8, "float16", 1.0), {"q": 1, "k": 2, "v": 3, "y": 4})
    told = dict(front.graphs[0].calls)["sdpa"]
    assert "bias" not in told
    assert "diagonal_band_right_bound" not in told


def test_plans_are_kept(front: FrontEnd) -> None:
    op, tensors = convolution(), {"x": 1, "w": 2, "y": 3}
    dnn = opened(front)
    dnn.prepare(op, tensors)
    dnn.prepare(op, {"x": 4, "w": 5, "y": 6})()
    assert len(front.graphs) == 1  # once in a process
    assert front.graphs[0].executed == [({1: 4, 2: 5, 5: 6}, WORKSPACE, HANDLE)]
    opened(front).prepare(op, tensors)()
    assert front.keeps is not None
    assert front.graphs[1].calls == [("deserialize", (HANDLE, list(front.keeps)))]
    assert len(front.graphs[1].executed) == 1
    for changed in (opened(front, "B200"), opened(front, nbytes=8192)):
        changed.prepare(op, tensors)
        assert ("deserialize", (HANDLE, list(front.keeps))) not in front.graphs[-1].calls


def test_kept_plans_that_no_longer_fit(front: FrontEnd) -> None:
    op, tensors = convolution(), {"x": 1, "w": 2, "y": 3}
    opened(front).prepare(op, tensors)
    front.refuses["deserialize"] = RuntimeError("another driver")
    opened(front).prepare(op, tensors)
    assert "build_plans" in dict(front.graphs[-1].calls)
    front.refuses.clear()
    front.needs = 5000
    opened(front).prepare(op, tensors)
    assert "build_plans" in dict(front.graphs[-1].calls)
    front.keeps = None
    opened(front, "other").prepare(op, tensors)
    assert "build_plans" in dict(front.graphs[-1].calls)


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), cudnn.cudnnGraphNotSupportedError("no"), ValueError("no")]
)
def test_what_cudnn_does_not_do(front: FrontEnd, error: Exception) -> None:
    front.refuses["check_support"] = error
    with pytest.raises(BackendError, match=r"cudnn.convolution\(float16 .* says: no"):
        opened(front).prepare(convolution(), {"x": 1, "w": 2, "y": 3})
    with pytest.raises(BackendError, match="in float32"):
        opened(front).prepare(Attention(1, 1, 1, 1, 1, 8, 8, "float32", 1.0), {})
    with pytest.raises(BackendError, match="in float64"):
        opened(front).prepare(convolution(dtype="float64"), {})


def test_shapes_that_do_not_fit_are_refused_by_the_front_end(front: FrontEnd) -> None:
    with pytest.raises(BackendError, match="cudnn.convolution"):
        opened(front).prepare(convolution(strides=()), {"x": 1, "w": 2, "y": 3})


def test_handles_end_with_their_owner(front: FrontEnd) -> None:
    dnn = opened(front)
    run = dnn.prepare(convolution(), {"x": 1, "w": 2, "y": 3})
    del dnn
    assert not front.destroyed  # what is prepared needs it
    del run
    assert front.destroyed == [HANDLE]


def test_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn, "backend_version", lambda: 8900)
    with pytest.raises(MissingDependencyError, match="cuDNN 9"):
        load_cudnn()

    def missing() -> int:
        raise RuntimeError("Unable to find symbol cudnnGetVersion")

    monkeypatch.setattr(cudnn, "backend_version", missing)
    with pytest.raises(MissingDependencyError, match="nvidia-cudnn-cu13"):
        load_cudnn()
    imports = builtins.__import__

    def refusing(name: str, *given: Any, **options: Any) -> Any:
        if name == "cudnn":
            raise ImportError("No module named 'cudnn'")
        return imports(name, *given, **options)

    monkeypatch.setattr(builtins, "__import__", refusing)
    with pytest.raises(MissingDependencyError, match="nvidia-cudnn-frontend"):
        load_cudnn()


def test_a_card_that_it_cannot_use(front: FrontEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing() -> int:
        raise RuntimeError("cudnnHandle Create failed")

    monkeypatch.setattr(front, "create_handle", refusing)
    with pytest.raises(MissingDependencyError, match="Create failed"):
        opened(front)


_LOADS = """
import ctypes, sys
from onnxref.gpu import _cudnn

class Loader(ctypes.CDLL):
    def __init__(self, name):
        if "/" not in name:
            raise OSError("the system has none")
        super().__init__(name)

ctypes.CDLL = Loader
sys.path.insert(0, sys.argv[1])
_cudnn._load_runtime()
print(open("/proc/self/maps").read())
"""


def test_the_runtime_of_pip_is_loaded_where_the_system_has_none(tmp_path: Path) -> None:
    """Attention says `Unable to load any libcudart` else: the front end looks for it by its name alone."""
    folder = tmp_path / "nvidia" / "cuda_runtime" / "lib"
    folder.mkdir(parents=True)
    build = ["g++", "-shared", "-x", "c", "-", "-Wl,-soname,libcudart.so.12", "-o", "libcudart.so.12"]
    subprocess.run(build, cwd=folder, input="int runtime;", text=True, check=True)
    found = subprocess.run(
        [sys.executable, "-c", _LOADS, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert str(folder / "libcudart.so.12") in found.stdout


def test_device_name(monkeypatch: pytest.MonkeyPatch, front: FrontEnd) -> None:
    runtime = SimpleNamespace(getDevice=lambda: 0, getDeviceProperties=lambda _: {"name": b"A card"})
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))
    assert Cudnn(WORKSPACE, 1, STREAM, library=front)._device == "A card"
