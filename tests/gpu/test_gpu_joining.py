"""Concat, Split and Slice on the emulator, held to the reference bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxref.kernels.cupy.joining  # noqa: F401
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxref.kernels.common.strides import Dim
from onnxref.kernels.cupy import movement
from onnxref.kernels.cupy.movement import emit_box, join_boxes

from onnxref.gpu import Launch
from onnxref.limits import DEFAULT, Budget
from onnxref.lowering import Op, Operand, PackCache, Site, Unsupported
from onnxref.plan.specialize import DeviceConstants, DeviceProgram, Lowered

from .emulator.build import ORDERS
from .emulator.device import EmulatedDevice
from .exact import SIZES, check_exact, reference_of, tensor
from .lowered import run_on_device


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("shapes", "axis"),
    [
        (((3, 5), (3, 2), (3, 0)), 1),
        (((2, 4, 6), (2, 8, 6)), -2),
        (((3, 16), (1, 16)), 0),
        (((5,), (4,)), 0),
    ],
)
def test_concat(shapes: Any, axis: int, size: int) -> None:
    inputs = [tensor(shape, SIZES[size], i) for i, shape in enumerate(shapes)]
    check_exact("Concat", inputs, {"axis": axis}, 13)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_concat_with_the_channels_last(axis: int) -> None:
    shape = [2, 3, 4, 5]
    other = [2 if i == axis else n for i, n in enumerate(shape)]
    inputs = [tensor(shape, np.float16), tensor(other, np.float16, 1)]
    (expected,) = reference_of("Concat", inputs, {"axis": axis}, 13, 1)
    (found,) = run_on_device(
        "Concat", inputs, [(expected.shape, expected.dtype)], {"axis": axis}, opset=13,
        channels_last=(0, 1), outputs_last=(0,),
    )  # fmt: skip
    assert found is not None
    assert np.ascontiguousarray(found).tobytes() == expected.tobytes()


def test_concat_of_one_and_of_version_1() -> None:
    check_exact("Concat", [tensor((3, 5))], {"axis": 0}, 13)
    check_exact("Concat", [tensor((3, 5)), tensor((3, 4), seed=1)], opset=1)
    check_exact("Concat", [tensor((0, 5)), tensor((3, 5), seed=1)], {"axis": 0}, 13)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("axis", "lengths"), [(1, (8, 3, 5)), (-1, (2, 4, 1)), (0, (1, 0, 1))])
def test_split(axis: int, lengths: tuple[int, ...], channels_last: bool) -> None:
    inputs = [tensor((2, 16, 3, 7), np.float16), np.array(lengths, np.int64)]
    options: Any = {"outputs": 3, "constants": (1,), "channels_last": channels_last}
    check_exact("Split", inputs, {"axis": axis}, 13, **options)
    check_exact("Split", inputs, {"axis": axis}, 13, wanted=(1,), **options)


def test_split_of_all_versions() -> None:
    x = tensor((6, 5))
    check_exact("Split", [x], {"axis": 0}, 2, outputs=3)
    check_exact("Split", [x], {"split": (2, 4)}, 11, outputs=2)
    check_exact("Split", [x], {"split": (1, 4), "axis": 1}, 1, outputs=2)
    check_exact("Split", [x], {"num_outputs": 4}, 18, outputs=4)
    with pytest.raises(Unsupported, match="do not make up"):
        run_on_device("Split", [x], [((2, 5), x.dtype)] * 2, {"split": (2, 2)}, opset=11)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ((1,), (6,), (0,), (1,)),
        ((2, 1), (5, 99), (0, 1), (1, 1)),
        ((-1,), (-99,), (1,), (-1,)),
        ((0, 8), (7, 0), (-2, -1), (3, -2)),
        ((5,), (2,), (0,), (1,)),
    ],
)
def test_slice(starts: Any, ends: Any, axes: Any, steps: Any, size: int) -> None:
    given = [np.array(v, np.int64) for v in (starts, ends, axes, steps)]
    check_exact("Slice", [tensor((7, 10), SIZES[size]), *given], constants=(1, 2, 3, 4))


def test_slice_with_the_channels_last() -> None:
    for starts, ends, axes, steps in (
        ((1, 4), (3, 0), (1, 3), (1, -1)),
        ((2,), (4,), (2,), (1,)),
        ((3,), (0,), (1,), (-2,)),
    ):
        given = [np.array(v, np.int64) for v in (starts, ends, axes, steps)]
        inputs = [tensor((2, 4, 5, 6), np.float16), *given]
        check_exact("Slice", inputs, constants=(1, 2, 3, 4), channels_last=True)


def test_slice_of_all_and_of_version_1() -> None:
    given = [np.array(v, np.int64) for v in ((0,), (1 << 60,))]
    check_exact("Slice", [tensor((7, 9)), *given], constants=(1, 2))
    check_exact("Slice", [tensor((7, 9))], {"starts": (1, 2), "ends": (4, -1)}, 1)
    with pytest.raises(Unsupported, match="not constant"):
        check_exact("Slice", [tensor((7, 9)), *given])


def test_large_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movement, "_MANY", 4096)
    check_exact("Concat", [tensor((5003,), np.uint8), tensor((4000,), np.uint8, 1)], {"axis": 0}, 13)
    check_exact("Concat", [tensor((40, 36)), tensor((40, 32), seed=1)], {"axis": 1}, 13)
    monkeypatch.setattr(movement, "MOST_INT", 1)
    check_exact("Concat", [tensor((40, 36)), tensor((40, 33), seed=1)], {"axis": 1}, 13)


@pytest.mark.parametrize(
    ("inputs", "boxes", "denses"),
    [
        # (rows, columns, from column): a copy of that part of a matrix of 40 columns to a dense goal.
        ([(6, 8, 0), (6, 24, 8)], 16, 0),
        ([(6, 8, 0), (6, 4, 4), (1, 40, 0)], 16 + 8, 0),
        ([(6, 3, 0), (6, 8, 3), (6, 16, 8)], 16, 2),
        ([(5, 39, 1)] * 3, 0, 2),
        ([(1, 33, 0), (1, 1, 1), (3, 1, 0)], 2, 2),
    ],
)
@pytest.mark.parametrize("most_int", [movement.MOST_INT, 1])
def test_pieces_of_any_kind_share_a_launch(
    monkeypatch: pytest.MonkeyPatch, inputs: Any, boxes: int, denses: int, most_int: int
) -> None:
    monkeypatch.setattr(movement, "MOST_INT", most_int)
    x = tensor((6, 40), np.float16)
    data = Operand(x.shape, x.dtype, "x")
    goals = [Operand((rows, columns), x.dtype, "y") for rows, columns, _ in inputs]
    site = Site(Op("Any", [data], list(goals)))
    for y, (rows, columns, begin) in zip(goals, inputs, strict=True):
        emit_box(site, y, data, [Dim(rows, columns, 40), Dim(columns, 1, 1)], source_offset=begin)
    device = EmulatedDevice()
    constants = DeviceConstants(device, PackCache())
    program = DeviceProgram([Lowered(site.op, site)], [data], goals, device, constants, debug=True)
    (launch,) = program.lowered[0].launches
    assert isinstance(launch, Launch)
    defines = dict(launch.kernel.defines)
    assert (defines["BOXES"], defines["DENSES"]) == (boxes, denses)
    assert defines["INDEX"] == ("int64_t" if most_int == 1 else "int")
    for order in ORDERS:
        device.order = order
        found = program.run([x], Budget(DEFAULT), _no_step)
        for y, (rows, columns, begin) in zip(found, inputs, strict=True):
            assert y.numpy().tobytes() == x[:rows, begin : begin + columns].tobytes()


def _no_step(step: Any, values: Any) -> Any:
    raise AssertionError("nothing runs on the reference here")


def test_arguments_of_a_launch_are_at_most_4_kib() -> None:
    """Boxes of many axes are fewer to a launch."""
    x = Operand((2,) * 22, np.dtype(np.uint8), "x")
    site = Site(Op("Any", [x], []))
    for i in range(20):
        y = Operand(x.shape, x.dtype, f"y{i}")
        emit_box(site, y, x, [Dim(2, 2**k, 3 ** (9 - k)) for k in range(10)])
    launches = join_boxes([launch for launch in site.launches if isinstance(launch, Launch)])
    assert len(launches) == 4
    for launch in launches:
        assert sum(len(values) for values in launch.arguments) * 8 <= 4096


bounds = st.integers(-30, 30)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(bounds, bounds, st.integers(-5, 5).filter(bool)), min_size=2, max_size=2),
    st.sampled_from([(6, 24), (24, 5), (17, 16)]),
)
def test_any_slice(window: list[tuple[int, int, int]], shape: tuple[int, int]) -> None:
    starts, ends, steps = (np.array(part, np.int64) for part in zip(*window, strict=True))
    inputs = [tensor(shape, np.float16), starts, ends, np.array((0, 1), np.int64), steps]
    check_exact("Slice", inputs, constants=(1, 2, 3, 4))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 5).map(lambda n: 4 * n), min_size=2, max_size=4), st.integers(0, 1))
def test_any_concat_is_undone_by_split(lengths: list[int], axis: int) -> None:
    shapes = [(n, 8) if axis == 0 else (8, n) for n in lengths]
    pieces = [tensor(shape, np.float16, i) for i, shape in enumerate(shapes)]
    (joined,) = check_exact("Concat", pieces, {"axis": axis}, 13)
    split = np.array(lengths, np.int64)
    parts = check_exact("Split", [joined, split], {"axis": axis}, 13, constants=(1,), outputs=len(lengths))
    for part, piece in zip(parts, pieces, strict=True):
        assert part.tobytes() == piece.tobytes()
