"""The gather and scatter families on the emulator, held to the reference bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxref.kernels.cupy.indexing  # noqa: F401
import pytest
from onnxref.kernels.cupy import movement

from onnxref.lowering import Unsupported
from onnxref.plan.specialize._program import RefusedError

from .exact import SIZES, check_exact, tensor

INT32, INT64 = np.int32, np.int64


def some(shape: tuple[int, ...], size: int, dtype: Any = INT64, seed: int = 1) -> Any:
    """Return indices into an axis, from both ends."""
    return np.random.default_rng(seed).integers(-size, size, shape).astype(dtype)


@pytest.mark.parametrize("constants", [(), (1,)])
@pytest.mark.parametrize(
    ("shape", "axis", "count"),
    [((9, 16), 0, (3, 4)), ((5, 9), 1, (7,)), ((2, 9, 3), 1, (5,)), ((9,), 0, ()), ((2, 9, 4), -2, (4,))],
)
def test_gather(shape: Any, axis: int, count: Any, constants: Any) -> None:
    check_exact("Gather", [tensor(shape), some(count, 9)], {"axis": axis}, constants=constants)


def test_indices_of_32_bits() -> None:
    check_exact("Gather", [tensor((9, 16)), some((3, 4), 9, INT32)])
    inputs = [tensor((9, 4)), some((50, 1), 9, INT32), tensor((50, 4), seed=2)]
    check_exact("ScatterND", inputs, opset=18)


@pytest.mark.parametrize("size", SIZES)
def test_gather_of_all_sizes(size: int) -> None:
    check_exact("Gather", [tensor((3, 7, 5), SIZES[size]), some((4,), 7)], {"axis": 1})


def test_gather_of_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxref.kernels.cupy.indexing._MANY", 1024)
    check_exact("Gather", [tensor((9, 16)), some((300,), 9)])
    monkeypatch.setattr(movement, "MOST_INT", 1)
    check_exact("Gather", [tensor((2, 9, 3)), some((30,), 9)], {"axis": 1})


def test_gather_at_equal_distances_is_one_copy() -> None:
    check_exact("Gather", [tensor((9, 6)), np.array([7, 5, 3], INT64)], constants=(1,))
    check_exact("Gather", [tensor((9, 6)), np.array(-2, INT64)], {"axis": 1}, constants=(1,))


def test_gather_of_nothing() -> None:
    check_exact("Gather", [tensor((4, 0)), some((3,), 4)])
    check_exact("Gather", [tensor((4, 3)), np.zeros((0,), INT64)])


@pytest.mark.parametrize("index", [4, -5, 1 << 40])
def test_gather_out_of_range(index: int) -> None:
    inputs = [tensor((4, 3)), np.array([0, index], INT64)]
    with pytest.raises(RefusedError):
        run_bad("Gather", inputs, (2, 3))
    with pytest.raises(Unsupported, match="out of range"):
        run_bad("Gather", inputs, (2, 3), constants=(1,))


def test_gather_1_takes_no_negative_indices() -> None:
    check_exact("Gather", [tensor((4, 3)), np.array([2, 0], INT64)], opset=10)
    with pytest.raises(RefusedError):
        run_bad("Gather", [tensor((4, 3)), np.array([0, -1], INT64)], (2, 3), opset=10)


def run_bad(op_type: str, inputs: Any, shape: Any, **options: Any) -> None:
    from .lowered import run_on_device

    run_on_device(op_type, inputs, [(shape, inputs[0].dtype)], **options)


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize(
    ("shape", "index_shape", "axis"),
    [
        ((5, 6), (5, 6), 0),
        ((5, 6), (3, 9), 1),
        ((3, 5, 4), (2, 7, 4), 1),
        ((7,), (9,), 0),
        ((3, 4), (0, 4), 0),
    ],
)
def test_gather_elements(shape: Any, index_shape: Any, axis: int, size: int) -> None:
    indices = some(index_shape, shape[axis])
    check_exact("GatherElements", [tensor(shape, SIZES[size]), indices], {"axis": axis})


@pytest.mark.parametrize(
    ("shape", "index_shape", "batch"),
    [
        ((5, 6, 4), (3, 2), 0),
        ((5, 6, 4), (2, 3, 1), 0),
        ((3, 5, 6, 2), (3, 4, 2), 1),
        ((2, 3, 5), (2, 3, 1), 2),
    ],
)
def test_gather_nd(shape: Any, index_shape: Any, batch: int) -> None:
    k = index_shape[-1]
    indices = np.stack([some(index_shape[:-1], shape[batch + i], seed=i) for i in range(k)], -1)
    check_exact("GatherND", [tensor(shape, np.float16), indices], {"batch_dims": batch})
    indices[(0,) * indices.ndim] = shape[batch]
    with pytest.raises(RefusedError):
        run_bad(
            "GatherND",
            [tensor(shape), indices],
            indices.shape[:-1] + shape[batch + k :],
            attributes={"batch_dims": batch},
        )


# --- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("constants", [(), (1,)])
@pytest.mark.parametrize(
    ("shape", "index_shape", "axis"),
    [
        ((5, 6), (2, 6), 0),
        ((5, 6), (5, 9), 1),
        ((3, 50, 4), (2, 70, 4), 1),
        ((7,), (20,), 0),
        ((3, 4), (0, 4), 0),
    ],
)
def test_scatter_elements_keeps_the_last(shape: Any, index_shape: Any, axis: int, constants: Any) -> None:
    indices = some(index_shape, shape[axis])
    inputs = [tensor(shape, np.float16), indices, tensor(index_shape, np.float16, 2)]
    check_exact("ScatterElements", inputs, {"axis": axis}, 18, constants=constants)


def test_scatter_of_distinct_constant_places() -> None:
    order = np.random.default_rng(3).permutation(40).astype(INT64).reshape(1, 40)
    check_exact(
        "Scatter", [tensor((2, 40)), order - 0, tensor((1, 40), seed=2)], {"axis": 1}, 9, constants=(1,)
    )
    check_exact(
        "Scatter", [tensor((2, 40)), order - 40, tensor((1, 40), seed=2)], {"axis": 1}, 11, constants=(1,)
    )


@pytest.mark.parametrize("count", [5, 60])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_scatter_nd_keeps_the_last(k: int, count: int) -> None:
    shape = (4, 3, 8)
    indices = np.stack([some((count,), shape[i], seed=i) for i in range(k)], -1)
    updates = tensor((count, *shape[k:]), seed=2)
    check_exact("ScatterND", [tensor(shape), indices, updates], opset=18)
    indices[count // 2, 0] = -5
    with pytest.raises(RefusedError):
        run_bad("ScatterND", [tensor(shape), indices, updates], shape, opset=18)


@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.float64])
def test_scatters_that_reduce(reduction: str, dtype: Any) -> None:
    rng = np.random.default_rng(5)
    data = (rng.standard_normal((3, 5, 4)) * 4).astype(dtype)
    updates = (rng.standard_normal((2, 9, 4)) * 4).astype(dtype)
    attributes = {"axis": 1, "reduction": reduction}
    check_exact("ScatterElements", [data, some((2, 9, 4), 5), updates], attributes, 18)
    tuples = np.stack([some((9,), 3, seed=1), some((9,), 5, seed=2)], -1)
    check_exact("ScatterND", [data, tuples, updates[0]], {"reduction": reduction}, 18)


def test_reductions_that_are_refused() -> None:
    data, indices = np.zeros(4, np.float16), np.zeros(3, INT64)
    with pytest.raises(Unsupported, match="float16"):
        check_exact("ScatterElements", [data, indices, data[:3]], {"reduction": "add"}, 18)
    long = np.zeros(40000, INT64)
    with pytest.raises(Unsupported, match="in a row"):
        check_exact("ScatterElements", [long[:4], long, long], {"reduction": "add"}, 18)


@pytest.mark.parametrize("mode", ["linear", "circular"])
@pytest.mark.parametrize(("shape", "axis"), [((3, 2, 7, 4), -2), ((3, 7, 5), 1), ((3, 7), 1)])
def test_tensor_scatter(shape: Any, axis: int, mode: str) -> None:
    at = axis % len(shape)
    update = tensor((*shape[:at], 3, *shape[at + 1 :]), np.float16, 2)
    inputs = [tensor(shape, np.float16), update, np.array([0, 4, 2], INT64)]
    check_exact("TensorScatter", inputs, {"axis": axis, "mode": mode})
    inputs[2] = np.array([6, -1, 11], INT64)
    if mode == "circular":
        check_exact("TensorScatter", inputs, {"axis": axis, "mode": mode})
    else:
        check_exact("TensorScatter", [*inputs[:2], None], {"axis": axis, "mode": mode})
        with pytest.raises(RefusedError):
            run_bad("TensorScatter", inputs, shape, attributes={"axis": axis, "mode": mode})


@pytest.mark.parametrize("time_axis", [0, 1])
def test_reverse_sequence(time_axis: int) -> None:
    attributes = {"time_axis": time_axis, "batch_axis": 1 - time_axis}
    shape = (5, 3, 6) if time_axis == 0 else (3, 5, 6)
    check_exact("ReverseSequence", [tensor(shape), np.array([5, 0, 3], INT64)], attributes, 10)
    check_exact("ReverseSequence", [tensor(shape[:2], np.int8), np.array([1, 2, 4], INT64)], attributes, 10)
    with pytest.raises(RefusedError):
        run_bad("ReverseSequence", [tensor(shape), np.array([1, 6, 1], INT64)], shape, attributes=attributes)
