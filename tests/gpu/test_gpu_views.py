"""What Concat, Split, Slice and Gather have a card do: views where memory allows, else one launch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import pytest
from onnxref.kernels.cupy.movement import emit_copy

import onnxref
from onnxref.limits import DEFAULT, Budget
from onnxref.lowering import Op, Operand, PackCache, Site
from onnxref.plan._steps import Step
from onnxref.plan.specialize import DeviceConstants, DeviceProgram, Lowered
from onnxref.plan.specialize._join import ELSEWHERE

from .emulator.device import EmulatedDevice
from .exact import tensor

FLOAT = np.dtype(np.float32)


def checked(text: str, device: EmulatedDevice, debug: bool = False, **feeds: Any) -> DeviceProgram:
    """Assert that a graph gives the bits of the reference, captured too; return its program."""
    return planned(text, device, debug, **feeds)[1]


def planned(
    text: str, device: EmulatedDevice, debug: bool = False, **feeds: Any
) -> tuple[onnxref.InferenceSession, DeviceProgram]:
    """Return the session too."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    expected = onnxref.InferenceSession(model, backend="numpy").run(None, feeds)
    session = onnxref.InferenceSession(model, backend="cupy", debug=debug, strict=True)
    for _ in range(3):
        found = session.run(None, feeds)
        assert [np.asarray(y).tobytes() for y in found] == [np.asarray(y).tobytes() for y in expected]
    device.synchronize()
    (region,) = session.native_regions()
    assert isinstance(region.program, DeviceProgram)
    return session, region.program


def numbers(*shape: int) -> Any:
    """Return a tensor of any numbers but NaN, whose bits a Relu may change."""
    return np.nan_to_num(tensor(shape))


ONE_INPUT = [
    # Ranges of the input's memory that begin at multiples of 16 bytes.
    ("[4, 6, 8]", "(a, b) { a, b = Split<axis = 0, num_outputs = 2>(x) }", 0),
    ("[1, 6, 8]", "(a, b) { a, b = Split<axis = 1, num_outputs = 2>(x) }", 0),
    ("[4, 6, 8]", "(a, b) { r = Relu(x) p, b = Split<axis = 0, num_outputs = 2>(r) a = Neg(p) }", 2),
    ("[4, 6, 8]", "(y) <int64[1] s = {1}, int64[1] e = {3}> { a = Slice(x, s, e) y = Relu(a) }", 1),
    ("[4, 6, 8]", "(y) <int64 i = {-1}> { a = Gather<axis = 0>(x, i) y = Relu(a) }", 1),
    # One that begins elsewhere is copied, together with what else is.
    ("[3, 5]", "(a, b, c) { a, b, c = Split<axis = 0, num_outputs = 3>(x) }", 1),
    ("[3, 5]", "(y) <int64[1] s = {1}, int64[1] e = {3}> { y = Slice(x, s, e) }", 1),
    # Pieces that lie apart.
    ("[4, 6, 8]", "(a, b) { a, b = Split<axis = 1, num_outputs = 2>(x) }", 1),
    ("[4, 6, 8]", "(a, b, c) <int64[3] n = {1, 4, 1}> { a, b, c = Split<axis = 1>(x, n) }", 1),
    ("[4, 7]", "(a, b) <int64[2] n = {4, 3}> { a, b = Split<axis = 1>(x, n) }", 1),
    ("[4, 6, 8]", "(y) <int64[1] s = {1}, int64[1] e = {3}, int64[1] t = {1}> { y = Slice(x, s, e, t) }", 1),
    # Inputs of a Concat that are made in their places, and those that cannot be.
    ("[4, 6, 8]", "(y) { a = Relu(x) b = Neg(x) y = Concat<axis = 0>(a, b) }", 2),
    ("[4, 6, 8]", "(y) { a = Relu(x) y = Concat<axis = 0>(x, a, x) }", 2),
    ("[3, 5]", "(y) { a = Relu(x) b = Neg(x) y = Concat<axis = 0>(a, b) }", 3),
    ("[4, 6, 8]", "(y) { a = Relu(x) b = Neg(x) y = Concat<axis = 1>(a, b, x) }", 3),
    ("[4, 6, 8]", "(y) { a, b = Split<axis = 0, num_outputs = 2>(x) y = Concat<axis = 0>(b, a) }", 1),
    # More than a launch takes.
    ("[34, 3]", f"(y) {{ y = Concat<axis = 1>({', '.join('x' * 17)}) }}", 3),
    # Neighbours: independent, one of the other's result, and with something between.
    ("[4, 6, 8]", "(a, b) { a = Concat<axis = 1>(x, x) b = Concat<axis = 2>(x, x) }", 1),
    ("[4, 6, 8]", "(y) { a = Concat<axis = 1>(x, x) y = Concat<axis = 1>(x, a) }", 2),
    ("[4, 6, 8]", "(y) { a = Concat<axis = 1>(x, x) b = Relu(a) y = Concat<axis = 1>(x, b) }", 3),
    ("[4, 6, 8]", "(y, z) { a = Concat<axis = 1>(x, x) z = Concat<axis = 2>(x, x) y = Relu(a) }", 2),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "graph", "launches"), ONE_INPUT)
def test_launches(device: EmulatedDevice, shape: str, graph: str, launches: int) -> None:
    x = numbers(*map(int, shape.strip("[]").split(",")))
    assert checked(f"g (float{shape} x) => {graph}", device, x=x).launches == launches


def test_the_caches_of_keys_and_values_grow_in_one_launch(device: EmulatedDevice) -> None:
    text = """g (float16[1, 2, 9, 8] p, float16[1, 2, 9, 8] q, float16[1, 2, 1, 8] k, float16[1, 2, 1, 8] v)
        => (y, z) { y = Concat<axis = 2>(p, k) z = Concat<axis = 2>(q, v) }"""
    long, short = (1, 2, 9, 8), (1, 2, 1, 8)
    shapes = {"p": long, "q": long, "k": short, "v": short}
    feeds = {name: tensor(shape, np.float16, i) for i, (name, shape) in enumerate(shapes.items())}
    session, program = planned(text, device, **feeds)
    assert [len(found.launches) for found in program.lowered] == [0, 1]
    first, second = session.explain()
    assert (first.kind, first.kernel, first.reason) == ("device", "", ELSEWHERE)
    assert (second.kind, second.kernel.partition("(")[0]) == ("device", "joined.joined")
    (launch,) = program.lowered[1].launches
    assert getattr(launch, "grid") == (4, 1, 1)  # noqa: B009 - a block for each piece, however short
    assert checked(text, device, debug=True, **feeds).launches == 2  # each op is looked at by itself


def test_what_is_joined_outlives_what_is_between(device: EmulatedDevice) -> None:
    """The first Concat runs with the second: what it reads must not have been overwritten by then."""
    text = """g (float[4, 6, 8] x) => (y, z) {
        a = Relu(x) b = Neg(x) c = Concat<axis = 1>(a, b) d = Concat<axis = 1>(b, x)
        y = Neg(c) z = Neg(d) }"""
    program = checked(text, device, x=numbers(4, 6, 8))
    assert program.launches == 5
    joined = next(i for i, found in enumerate(program.lowered) if "joined" in str(found.launches))
    a = program.lowered[0].op.outputs[0]
    assert a is not None
    assert program.places[program.roots.of(a)].last == joined


def test_ranges_of_constants(device: EmulatedDevice) -> None:
    """A kernel and the reference read halves of a weight, which is on both sides."""
    w, x = Operand((4, 4), FLOAT, "w", np.arange(16, dtype=FLOAT).reshape(4, 4)), Operand((2, 4), FLOAT, "x")
    half, copied, y = (Operand((2, 4), FLOAT, name) for name in ("half", "copied", "y"))
    view, copy = Site(Op("Slice", [w], [half])), Site(Op("Identity", [half], [copied]))
    view.alias(half, w, 32)
    emit_copy(copy, copied, half)
    step = Step.__new__(Step)  # what runs it does not look at it
    lowered = [
        *(Lowered(site.op, site) for site in (view, copy)),
        Lowered(Op("Add", [half, x], [y]), step=step),
    ]
    program = DeviceProgram(lowered, [x], [copied, y], device, DeviceConstants(device, PackCache()))
    given = numbers(2, 4)
    found = program.run([given], Budget(DEFAULT), lambda _, values: [values[0] + values[1]])
    wanted = np.arange(8, 16, dtype=FLOAT).reshape(2, 4)
    np.testing.assert_array_equal(found[0].numpy(), wanted)
    np.testing.assert_array_equal(found[1].numpy(), wanted + given)
