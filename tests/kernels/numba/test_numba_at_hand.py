"""New sizes of images run with code that is loaded already, where that is nearly as good."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxref.kernels.numba import _at_hand, convolution
from onnxref.kernels.numba._at_hand import at_hand

import onnxref
from onnxref.lowering import Op, Site
from onnxref.native import NativeFunction, native

Array = NDArray[Any]
FACTORIES = ("direct", "winograd", "depthwise", "shuffled", "segments")
SIZES = ((39, 46), (36, 41), (43, 33), (49, 40), (51, 35))


def conv_model(kernel: int, group: int, activation: str) -> onnx.ModelProto:
    """A 3-channel image to 32 channels, twice convolved, with a residual."""
    rng = np.random.default_rng(0)
    pads = [(kernel - 1) // 2] * 2 + [kernel // 2] * 2
    first, second = (
        rng.standard_normal(shape, np.float32) / 5
        for shape in ((32, 3, 3, 3), (32, 32 // group, kernel, kernel))
    )
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        helper.make_node("Conv", ["a", "v"], ["b"], pads=pads, group=group),
        helper.make_node("Add", ["b", "a"], ["c"]),
        helper.make_node(activation, ["c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(first, "w"), numpy_helper.from_array(second, "v")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def image(size: tuple[int, int]) -> dict[str, Array]:
    return {"x": np.random.default_rng(1).standard_normal((1, 3, *size), np.float32)}


def convolutions(session: onnxref.InferenceSession) -> list[set[NativeFunction]]:
    """Return the code of convolutions in each of a session's programs, in the order of their shapes."""
    found = []
    for region in session.native_regions():
        assert region.program is not None
        functions = region.program.functions()
        found.append({function for function in functions if function.factory in FACTORIES})
    return found


@pytest.mark.parametrize(
    ("kernel", "group", "activation"),
    [(1, 1, "Relu"), (2, 1, "HardSwish"), (3, 1, "Relu"), (3, 32, "HardSwish"), (3, 2, "Relu")],
)
def test_new_sizes_use_the_code_of_the_first_and_change_no_bit(
    kernel: int, group: int, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = conv_model(kernel, group, activation)
    apart, expected = set(), []
    for size in SIZES:
        session = onnxref.InferenceSession(model, backend="numba")
        expected.append(session.run(None, image(size))[0])
        apart |= convolutions(session)[0]
    session = onnxref.InferenceSession(model, backend="numba")
    session.run(None, image((40, 46)))
    (first,) = convolutions(session)
    assert not apart <= first
    monkeypatch.setattr(_at_hand, "_MOST", 1e9)
    monkeypatch.setattr(_at_hand, "loaded_like", lambda f: [g for g in first if g.factory == f.factory])
    ready = property(lambda function: function in first or function.factory not in FACTORIES)
    monkeypatch.setattr(NativeFunction, "is_ready", ready)
    for size, right in zip(SIZES, expected, strict=True):
        np.testing.assert_array_equal(session.run(None, image(size))[0], right)
    assert len(convolutions(session)) == len(SIZES) + 1
    assert set().union(*convolutions(session)) == first


@pytest.mark.parametrize("activation", ["Relu", "HardSwish"])
def test_tiles_that_leave_other_rows_than_there_are(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is left below: the last tiles move up, over what is computed twice."""
    model = conv_model(2, 1, activation)
    session, plain = (onnxref.InferenceSession(model, backend=backend) for backend in ("numba", "numpy"))
    session.run(None, image((14, 9)))
    (first,) = convolutions(session)
    assert max(function.parameters[0] for function in first) > 2
    monkeypatch.setattr(_at_hand, "_MOST", 1e9)
    monkeypatch.setattr(_at_hand, "loaded_like", lambda f: [g for g in first if g.factory == f.factory])
    monkeypatch.setattr(NativeFunction, "is_ready", property(lambda function: function in first))
    for height in range(14, 22):  # whatever a tile of up to seven rows leaves
        (y,), (right,) = (run.run(None, image((height, 9))) for run in (session, plain))
        np.testing.assert_allclose(y, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("height", range(1, 60))
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7])
def test_the_last_block_has_room_for_a_tile(height: int, rows: int) -> None:
    if rows > height:
        pytest.skip("such a tile is not taken")
    for rest in range(rows):
        for wanted in (1, 2, 8):
            area = convolution._Area(height, 14, 2, row_bytes=1 << 16, cut_bytes=0, wanted=wanted)
            block = area.block_rows(rows, rest)
            assert block % rows == 0
            last = height % block or block
            assert height % rows in (0, rest) or last >= rows or block >= height


def _function(pixels: int) -> NativeFunction:
    return native("onnxref.kernels.numba.code.grouped", "depthwise", 16, pixels, 3, 9, 9, "", False, 1)


def test_what_is_much_slower_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    prices = {8: 10.0, 7: 14.0, 6: 12.5, 5: 12.0, 4: None}
    monkeypatch.setattr(_at_hand, "loaded_like", lambda function: [_function(n) for n in (7, 6, 5, 4)])
    site = Site(Op("Conv", [], []), hurried=True)

    def price(function: NativeFunction) -> float | None:
        return prices[function.parameters[1]]

    assert at_hand(site, _function(8), price) is _function(5)
    prices |= {5: 13.5, 6: 14.0}
    assert at_hand(site, _function(8), price) is _function(8)
    prices[5] = 11.0
    site.hurried = False
    assert at_hand(site, _function(8), price) is _function(8)
