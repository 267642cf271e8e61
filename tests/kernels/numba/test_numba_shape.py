"""Data movement in native code: exact, for every element size."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnxref.kernels.numba.shape
import onnxref.kernels.numpy  # noqa: F401
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxref.lowering import Blocked, Op, Operand, Unsupported, find_lowering
from onnxref.native import target
from tests.lowered import check_lowered, run_lowered

LANES = target().lanes
DTYPES = ("int8", "float16", "float32", "float64", "complex128")


def numbers(shape, dtype="float32", seed=0):
    """Return elements that differ, as far as the type has enough of them."""
    size = int(np.prod(shape))
    plain = {"float16": "uint16", "float32": "uint32", "float64": "uint64"}.get(dtype, dtype)
    return (np.arange(size) + 31 * seed).astype(plain).reshape(shape).view(dtype)


def ints(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "perm"),
    [
        ((3, 5), None),
        ((64, 70), None),
        ((16, 16), None),
        ((17, 33), (1, 0)),
        ((2, 35, 4, 33), (0, 2, 1, 3)),
        ((2, 35, 4, 33), (0, 2, 3, 1)),
        ((2, 35, 4, 33), (3, 1, 0, 2)),
        ((2, 3, 20, 21), (0, 2, 3, 1)),
        ((2, 20, 21, 3), (0, 3, 1, 2)),
        ((1, 40, 9, 2), (0, 3, 1, 2)),
        ((5, 1, 4), (1, 2, 0)),
        ((0, 3), None),
        ((), None),
        ((7,), (0,)),
        ((2, 3, 4, 5, 6, 7), (5, 3, 1, 0, 2, 4)),
        ((2, 3, 2, 2, 2, 3), (4, 0, 3, 1, 5, 2)),
    ],
)
def test_transpose(shape, perm, dtype, parallel):
    attributes = {} if perm is None else {"perm": perm}
    check_lowered("Transpose", [numbers(shape, dtype)], attributes, parallel=parallel)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_transpose_of_any_rank(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 19), max_size=5).filter(lambda s: np.prod(s) < 9000)))
    perm = tuple(data.draw(st.permutations(range(len(shape)))))
    check_lowered("Transpose", [numbers(shape)], {"perm": perm})


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes", "opset"),
    [
        ("Reshape", [numbers((4, 6)), ints(2, -1, 3)], {}, 25),
        ("Reshape", [numbers((4, 6))], {"shape": (6, 4)}, 1),
        ("Flatten", [numbers((4, 6, 2))], {"axis": 2}, 25),
        ("Squeeze", [numbers((4, 1, 2)), ints(1)], {}, 25),
        ("Squeeze", [numbers((4, 1, 2))], {}, 25),
        ("Squeeze", [numbers((4, 1, 2))], {"axes": (1,)}, 11),
        ("Unsqueeze", [numbers((4, 2)), ints(0, -1)], {}, 25),
        ("Unsqueeze", [numbers((4, 2))], {"axes": (0,)}, 1),
        ("Identity", [numbers((4, 2))], {}, 25),
    ],
)
def test_changes_of_shape_are_aliases(op_type, inputs, attributes, opset):
    check_lowered(op_type, inputs, attributes, opset=opset, constants=(1,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "goal"),
    [
        ((1,), (70,)),
        ((3, 1), (3, 40)),
        ((1, 3), (5, 1, 1)),
        ((2, 1, 4), (2, 3, 4)),
        ((), (2, 2)),
        ((1,), (0,)),
    ],
)
def test_expand(shape, goal, dtype):
    check_lowered("Expand", [numbers(shape, dtype), ints(*goal)], constants=(1,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "repeats"),
    [((5,), (3,)), ((3, 1), (2, 40)), ((2, 3, 4), (1, 2, 2)), ((2, 3), (0, 1)), ((), ()), ((4, 5), (1, 1))],
)
def test_tile(shape, repeats, dtype):
    check_lowered("Tile", [numbers(shape, dtype), ints(*repeats)], constants=(1,))


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shapes", "axis"),
    [
        ([(2, 3), (2, 4)], 1),
        ([(2, 3), (5, 3)], 0),
        ([(20, 1), (20, 1), (20, 1)], -1),
        ([(2, 40, 5), (2, 0, 5), (2, 9, 5)], 1),
        ([(3,), (70,)], 0),
        ([(2, 30000), (1, 30000)], 0),
    ],
)
def test_concat(shapes, axis, dtype, parallel):
    check_lowered(
        "Concat", [numbers(s, dtype, i) for i, s in enumerate(shapes)], {"axis": axis}, parallel=parallel
    )


@pytest.mark.parametrize("pad", [(0, 0, 0, 0), (1, 2, 3, 4)])
@pytest.mark.parametrize("channels", [(LANES, 2 * LANES), (2 * LANES, LANES + 3)])
@pytest.mark.parametrize("rank", [3, 4])
def test_concat_in_blocks(channels, pad, rank):
    inputs = [numbers((2, c, 5, 7)[:rank], seed=i) for i, c in enumerate(channels)]
    pad = pad if rank == 4 else (0, pad[1], 0, pad[3])
    layouts = {0: Blocked(LANES, pad), 1: Blocked(LANES)}
    output = {0: Blocked(LANES, (0, 1, 0, 1))}
    check_lowered("Concat", inputs, {"axis": 1}, layouts=layouts, output_layouts=output)


def test_blocks_need_whole_pieces():
    rule = find_lowering("numba", "", "Concat", 13).blocked

    def use(*channels, axis=1):
        inputs = [Operand((1, c, 4, 4), np.dtype("f4")) for c in channels]
        return rule(Op("Concat", inputs, [None], {"axis": axis}), LANES)

    assert use(LANES, LANES + 1) is not None
    assert use(LANES + 1, LANES) is None
    assert use(LANES, LANES, axis=2) is None
    rule = find_lowering("numba", "", "Split", 13).blocked
    op = Op("Split", [Operand((1, 2 * LANES, 4, 4), np.dtype("f4"))], [None, None], {"axis": 1})
    assert rule(op, LANES) is not None
    assert rule(op, 4 * LANES) is None


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize(
    ("opset", "split", "attributes", "parts"),
    [
        (2, None, {"axis": 1}, (3, 3)),
        (11, None, {"axis": 1, "split": (2, 4)}, (2, 4)),
        (13, ints(1, 0, 5), {"axis": -1}, (1, 0, 5)),
        (18, None, {"axis": 1, "num_outputs": 4}, (2, 2, 2, 0)),
    ],
)
def test_split(opset, split, attributes, parts, dtype):
    x = numbers((4, 6), dtype)
    inputs = [x] if split is None else [x, split]
    wanted = [((4, n), dtype) for n in parts]
    found = run_lowered("Split", inputs, wanted, attributes, opset=opset, constants=(1,))
    for y, e in zip(found, np.split(x, np.cumsum(parts)[:-1], axis=1), strict=True):
        np.testing.assert_array_equal(y, e)
    found = run_lowered("Split", inputs, [None, *wanted[1:]], attributes, opset=opset, constants=(1,))
    assert found[0] is None


def test_split_in_blocks():
    x = numbers((2, 3 * LANES + 1, 4, 5))
    parts = (LANES, 2 * LANES + 1)
    found = run_lowered(
        "Split",
        [x, ints(*parts)],
        [((2, n, 4, 5), "f4") for n in parts],
        {"axis": 1},
        constants=(1,),
        opset=18,
        layouts={0: Blocked(LANES, (1, 1, 1, 1))},
        output_layouts={0: Blocked(LANES), 1: Blocked(LANES, (1, 0, 0, 2))},
    )
    np.testing.assert_array_equal(found[0], x[:, : parts[0]])
    np.testing.assert_array_equal(found[1], x[:, parts[0] :])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "starts", "ends", "axes", "steps"),
    [
        ((20, 30), (2, 3), (9, 29), None, None),
        ((20, 30), (0,), (2**62,), (1,), (2,)),
        ((20, 30), (1,), (2**62,), (-1,), (3,)),
        ((20, 30), (-1,), (-(2**62),), (1,), (-1,)),
        ((20, 30), (-1,), (-(2**62),), (0,), (-2,)),
        ((20, 30), (5, 7), (5, 3), None, None),
        ((20, 30), (0,), (20,), (0,), None),
        ((4, 3, 8, 8), (0, 1), (8, 8), (2, 3), (2, 2)),
        ((5,), (3,), (4,), None, (2**40,)),
        ((0, 3), (0,), (5,), (0,), (-1,)),
        ((5,), (-100,), (100,), None, None),
    ],
)
def test_slice(shape, starts, ends, axes, steps, dtype):
    inputs = [numbers(shape, dtype), ints(*starts), ints(*ends)]
    inputs += [None if v is None else ints(*v) for v in (axes, steps)]
    check_lowered("Slice", inputs, constants=(1, 2, 3, 4))


def test_slice_1():
    check_lowered("Slice", [numbers((4, 9))], {"starts": (1,), "ends": (-1,), "axes": (1,)}, opset=1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), *[st.integers(-12, 12)] * 2, st.integers(-3, 3)), max_size=3))
def test_slice_of_any_rank(axes):
    shape = tuple(a[0] for a in axes)
    starts, ends = (ints(*(a[i] for a in axes)) for i in (1, 2))
    steps = ints(*(a[3] or 1 for a in axes))
    inputs = [numbers(shape), starts, ends, ints(*range(len(axes))), steps]
    check_lowered("Slice", inputs, constants=(1, 2, 3, 4))


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
@pytest.mark.parametrize(
    ("shape", "pads"),
    [
        ((5, 7), (1, 2, 3, 4)),
        ((5, 7), (-1, 2, 0, -3)),
        ((2, 3, 6, 40), (0, 0, 1, 1, 0, 0, 1, 1)),
        ((4,), (9, 10)),
        ((1, 5), (2, 0, 3, 0)),
        ((3, 2), (0, 0, 0, 0)),
        ((2,), (0, 9)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "int8", "complex128"])
def test_pad(shape, pads, mode, dtype):
    check_lowered("Pad", [numbers(shape, dtype), ints(*pads)], {"mode": mode}, constants=(1,))


def test_pad_takes_value_and_axes_from_inputs():
    inputs = [numbers((3, 4, 5)), ints(1, 2, 3, 4), np.array(np.nan, "f4"), ints(2, 0)]
    check_lowered("Pad", inputs, constants=(1, 3))
    check_lowered("Pad", [numbers((3, 4)), ints(0, 1, 2, 0), np.array([2.5], "f4")], constants=(1,), opset=11)
    half = numbers((3, 4)).astype(ml_dtypes.bfloat16)
    check_lowered("Pad", [half, ints(0, 1, 2, 0), np.array(2.5, half.dtype)], constants=(1,))


@pytest.mark.parametrize(("opset", "name"), [(1, "paddings"), (2, "pads")])
def test_pad_with_attributes(opset, name):
    for mode in ("constant", "edge", "reflect"):
        attributes = {name: (1, 2, 0, 3), "mode": mode, "value": -1.5}
        check_lowered("Pad", [numbers((3, 4))], attributes, opset=opset)


def test_empty_dimensions_are_padded_with_constants():
    check_lowered("Pad", [numbers((0, 4)), ints(1, 2, 0, 3)], constants=(1,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize("block", [1, 2, 3, 4, 5])
def test_blocks_of_space(block, mode, dtype):
    x = numbers((2, 2 * block * block, 3, 17), dtype)
    check_lowered("DepthToSpace", [x], {"blocksize": block, "mode": mode})
    x = numbers((2, 3, 2 * block, 17 * block), dtype)
    check_lowered("SpaceToDepth", [x], {"blocksize": block, "mode": mode}, opset=28)


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes", "shape"),
    [
        ("Transpose", [numbers((2, 3))], {"perm": (0, 0)}, (2, 3)),
        ("Slice", [numbers((5,)), ints(0), ints(2)], {}, (2,)),
        ("Expand", [numbers((1,)), ints(3)], {}, (3,)),
        ("Reshape", [numbers((4,)), ints(2, 2)], {}, (2, 2)),
        ("Pad", [numbers((4,)), ints(1, 1)], {}, (6,)),
        ("Concat", [numbers((4,)), numbers((4,))], {"axis": 1}, (8,)),
    ],
)
def test_the_rest_is_left_to_the_reference(op_type, inputs, attributes, shape):
    with pytest.raises(Unsupported):
        run_lowered(op_type, inputs, [(shape, inputs[0].dtype)], attributes)


def test_no_lowering_imports_numba():
    import subprocess
    import sys

    script = "import sys, onnxref.kernels.numba.shape; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
