"""Reading and writing at places in native code: exact."""

from __future__ import annotations

import numpy as np
import onnxref.kernels.numba.indexing
import onnxref.kernels.numpy  # noqa: F401
import pytest

from onnxref.lowering import Unsupported
from tests.lowered import RefusedError, check_lowered, reference, run_lowered

DTYPES = ("int8", "float16", "float32", "float64", "complex128")


def numbers(shape, dtype="float32", start=0):
    return np.arange(start, start + int(np.prod(shape))).reshape(shape).astype(dtype)


def ints(values, dtype="int64"):
    return np.array(values, dtype)


CONSTANT = pytest.mark.parametrize("constants", [(1,), ()], ids=["constant", "run time"])


@CONSTANT
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "indices", "axis"),
    [
        ((5, 6), [4, 0, -1], 0),
        ((5, 6), [[4, 0], [-1, 2]], 1),
        ((5, 40), [3, 3, 1, 0, 0], 0),
        ((3, 5, 7), 2, 1),
        ((3, 5, 7), [0, 2, 4], 1),
        ((3, 5, 7), [4, 2, 0], -1),
        ((3, 5, 7), [0, 1, 4, 2], -2),
        ((3,), [], 0),
        ((3, 0), [1, 0, 0], 0),
    ],
)
def test_gather(shape, indices, axis, dtype, parallel, constants):
    inputs = [numbers(shape, dtype), ints(indices)]
    check_lowered("Gather", inputs, {"axis": axis}, constants=constants, parallel=parallel)


@CONSTANT
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_elements(axis, dtype, constants):
    rng = np.random.default_rng(0)
    for shape in ((3, 3, 3), (2, 3, 1), (3, 0, 3)):
        indices = rng.integers(-3, 3, shape).astype("int32")
        inputs = [numbers((3, 3, 3), dtype), indices]
        check_lowered("GatherElements", inputs, {"axis": axis}, constants=constants)


@CONSTANT
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "indices", "batch"),
    [
        ((4, 5, 6), [[1, 2], [-1, 0]], 0),
        ((4, 5, 6), [[[1, 2, 3]], [[0, -1, 5]]], 0),
        ((2, 5, 6), [[[1], [2]], [[-1], [0]]], 1),
        ((2, 5), [[0], [3]], 1),
    ],
)
def test_gather_nd(shape, indices, batch, dtype, constants):
    inputs = [numbers(shape, dtype), ints(indices)]
    check_lowered("GatherND", inputs, {"batch_dims": batch}, constants=constants)


@CONSTANT
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("op_type", "opset"), [("ScatterElements", 18), ("ScatterElements", 13), ("Scatter", 9)]
)
def test_scatter_elements(op_type, opset, dtype, constants):
    indices = ints([[0, 1, 2], [2, 0, 0]])
    inputs = [numbers((4, 5), dtype), indices, numbers((2, 3), dtype, 50)]
    check_lowered(op_type, inputs, {"axis": 0}, opset=opset, constants=constants)
    if opset > 9:
        inputs[1] = indices - 3
        check_lowered(op_type, inputs, {"axis": -1}, opset=opset, constants=constants)


@CONSTANT
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "indices"),
    [((4, 5), [[1, 2], [-1, 0], [1, 2]]), ((4, 50), [[2], [0], [2]]), ((4, 5, 2), [[[1], [1]]])],
)
def test_scatter_nd(shape, indices, dtype, parallel, constants):
    indices = ints(indices)
    updates = numbers(indices.shape[:-1] + shape[indices.shape[-1] :], dtype, 50)
    inputs = [numbers(shape, dtype), indices, updates]
    check_lowered("ScatterND", inputs, constants=constants, parallel=parallel)


@pytest.mark.parametrize(
    ("reduction", "dtype"),
    [("add", "float32"), ("add", "int8"), ("mul", "int64"), ("max", "float32"), ("min", "float64")],
)
def test_scatter_reduces_in_order(reduction, dtype):
    rng = np.random.default_rng(1)
    data, updates = (rng.normal(size=(6, n)) * 100 for n in (7, 4))
    if dtype.startswith("float"):
        data[0, 0], updates[0, 0], updates[1, 1] = np.nan, np.nan, np.inf
    inputs = [data.astype(dtype), rng.integers(-6, 6, (6, 4)), updates.astype(dtype)]
    check_lowered("ScatterElements", inputs, {"reduction": reduction}, constants=(1,))
    rows = [np.ones((3, 9000), dtype), ints([[2], [0], [-1]]), np.full((3, 9000), 7, dtype)]
    check_lowered("ScatterND", rows, {"reduction": reduction}, parallel=True)


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"),
    [
        ("Gather", [numbers((4, 5)), ints([0, 4])], {}),
        ("Gather", [numbers((4, 5)), ints([-6])], {"axis": 1}),
        ("Gather", [numbers((4, 5)), ints([2**31 - 1], "int32")], {}),
        ("GatherElements", [numbers((4, 5)), ints([[4]])], {}),
        ("GatherND", [numbers((4, 5)), ints([[0, 5]])], {}),
        ("GatherND", [numbers((4, 5)), ints([[-(2**63), 0]])], {}),
        ("ScatterElements", [numbers((4, 5)), ints([[-5]]), numbers((1, 1))], {}),
        ("ScatterND", [numbers((4, 5)), ints([[4]]), numbers((1, 5))], {"reduction": "add"}),
    ],
)
def test_an_index_out_of_range_is_refused(op_type, inputs, attributes):
    shape = inputs[0].shape if op_type.startswith("Scatter") else reference_shape(op_type, inputs, attributes)
    with pytest.raises(RefusedError):
        run_lowered(op_type, inputs, [(shape, "float32")], attributes)


def reference_shape(op_type, inputs, attributes):
    """The shape of the result, whatever the indices."""
    return reference(op_type, [inputs[0], np.zeros_like(inputs[1])], attributes, 24)[0].shape


def test_an_old_gather_counts_from_the_front_only():
    with pytest.raises(RefusedError):
        run_lowered("Gather", [numbers((4,)), ints([-1])], [((1,), "float32")], opset=10)


@pytest.mark.parametrize("opset", [9, 11])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "float64"])
def test_one_hot(dtype, axis, opset):
    indices = ints([[0, 3, -1], [7, -4, -5]], dtype)
    if dtype.startswith("float"):
        indices[0, 1], indices[1, 1], indices[0, 0] = np.nan, np.inf, -0.5
    for values in (numbers((2,), "float32", 5), numbers((2,), "int64", 5)):
        check_lowered("OneHot", [indices, ints(4), values], {"axis": axis}, opset=opset, constants=(1,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, 0, 1, -2, 100, -(2**62)])
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 5, 3), (0, 4), (4, 0)])
def test_trilu(shape, k, upper, dtype):
    inputs = [numbers(shape, dtype, 1)] + ([] if k is None else [ints(k)])
    check_lowered("Trilu", inputs, {"upper": upper}, constants=(1,))


@pytest.mark.parametrize("k", [0, 1, -2, 9, -9])
@pytest.mark.parametrize(("code", "dtype"), [(None, "float32"), (7, "int64"), (9, "bool"), (10, "float16")])
def test_eye_like(code, dtype, k):
    attributes = {"k": k} | ({} if code is None else {"dtype": code})
    for shape in ((4, 5), (5, 3), (0, 2)):
        check_lowered("EyeLike", [numbers(shape)], attributes)


@pytest.mark.parametrize(
    ("op_type", "inputs", "constants"),
    [
        ("Gather", [numbers((4,)), ints([4])], (1,)),
        ("Gather", [numbers((0,)), ints([1])], ()),
        ("ScatterND", [numbers((4,), "float16"), ints([[1]]), numbers((1,), "float16")], ()),
        ("GatherElements", [numbers((4,)), ints([-5])], (1,)),
        ("ScatterND", [numbers((4,)), ints([[4]]), numbers((1,))], (1,)),
        ("OneHot", [ints([1]), ints(4), numbers((2,))], ()),
    ],
)
def test_the_rest_is_left_to_the_reference(op_type, inputs, constants):
    attributes = {"reduction": "add"} if inputs[0].dtype == "float16" else {}
    shape = inputs[0].shape if op_type == "ScatterND" else (1,)
    with pytest.raises(Unsupported):
        run_lowered(op_type, inputs, [(shape, inputs[0].dtype)], attributes, constants=constants)
