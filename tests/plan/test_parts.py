"""Parts of outputs: what a Concat joins is written straight into its result, or copied where it cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxref import InferenceSession
from onnxref.debug._timeline import ArenaLedger
from onnxref.dtypes import Array
from onnxref.lowering import Blocked, Op, Operand, Site
from onnxref.native import NativeFunction, native, target, team_of
from onnxref.plan.specialize import Lowered, Program
from onnxref.plan.specialize._roots import Roots

HEAD = '<ir_version: 10, opset_import: ["" : 21]> '
FLOAT = np.dtype(np.float32)
LANES = target().lanes
RNG = np.random.default_rng(11)


# --- which values lie in which ----------------------------------------------------------------------


def value(name: str, *shape: int, constant: Array | None = None) -> Operand:
    return Operand(shape or (4,), FLOAT, name, constant)


def function() -> NativeFunction:
    return native("onnxref.kernels.numba.code.shape", "flat")


def made(*reads: Operand, y: Operand) -> Lowered:
    """Return an op with one call."""
    site = Site(Op("Any", list(reads), [y]))
    site.call(function(), *reads, y)
    return Lowered(site.op, site)


def joined(y: Operand, *parts: Operand) -> Lowered:
    """Return an op whose output is made up of its inputs, with a call for each."""
    site = Site(Op("Concat", list(parts), [y]))
    offset = 0
    for x in parts:
        with site.part(y, x, offset):
            site.call(function(), x, y + offset)
        offset += x.buffer_bytes
    assert offset == y.buffer_bytes
    return Lowered(site.op, site)


def viewed(x: Operand, y: Operand) -> Lowered:
    site = Site(Op("Reshape", [x], [y]))
    site.alias(y, x)
    return Lowered(site.op, site)


def copies(lowered: Sequence[Lowered], *external: Operand) -> list[list[str]]:
    """Return, for each op that joins, the names of the parts that it still copies."""
    found = Roots(lowered, external).without_copies(lowered)
    joins = [f for f in found if f.op.op_type == "Concat"]
    return [[x.name for call in f.calls if isinstance(x := call.arguments[0], Operand)] for f in joins]


x, a, b, c = (value(name) for name in "xabc")
ab, abc = value("ab", 8), value("abc", 12)
MAKERS = [made(x, y=a), made(x, y=b), made(x, y=c)]


def test_parts_lie_in_their_output_at_their_offsets() -> None:
    lowered = [*MAKERS[:2], joined(ab, a, b)]
    roots = Roots(lowered, (x, ab))
    assert (roots.place(a), roots.place(b)) == ((ab, 0), (ab, 16))
    assert copies(lowered, x, ab) == [[]]
    assert len(lowered[-1].calls) == 2  # those that were given are as they were


def test_parts_of_parts() -> None:
    lowered = [*MAKERS, joined(ab, a, b), joined(abc, c, ab)]
    roots = Roots(lowered, (x, abc))
    assert [roots.place(v) for v in (c, ab, a, b)] == [(abc, 0), (abc, 16), (abc, 16), (abc, 32)]
    assert copies(lowered, x, abc) == [[], []]


def test_an_output_goes_along_where_its_parts_are_repeated() -> None:
    """Concat(a, b), Concat(a, b, c), as DenseNets are exported."""
    lowered = [*MAKERS, joined(ab, a, b), joined(abc, a, b, c)]
    roots = Roots(lowered, (x, abc))
    assert roots.place(ab) == roots.place(a) == (abc, 0)
    assert copies(lowered, x, abc) == [[], []]


def test_an_output_stays_where_its_parts_are_repeated_in_another_order() -> None:
    acb = value("acb", 12)
    lowered = [*MAKERS, joined(ab, a, b), joined(acb, a, c, b)]
    assert copies(lowered, x, acb) == [[], ["a", "b"]]


def test_a_part_that_is_there_twice_is_copied_once() -> None:
    twice = value("twice", 8)
    lowered = [MAKERS[0], joined(twice, a, a)]
    assert copies(lowered, x, twice) == [["a"]]


def test_a_part_of_two_outputs_lies_in_the_first() -> None:
    ac = value("ac", 8)
    lowered = [*MAKERS, joined(ab, a, b), joined(ac, a, c)]
    assert copies(lowered, x, ab, ac) == [[], ["a"]]


def test_what_has_another_place_is_copied() -> None:
    constant = value("constant", constant=np.ones(4, FLOAT))
    ends = value("ends", 12)
    lowered = [MAKERS[0], joined(ends, x, a, constant)]
    assert copies(lowered, x, ends) == [["x", "constant"]]
    assert copies(lowered, x, ends, a) == [["x", "a", "constant"]]


def test_a_view_of_a_part_lies_with_it() -> None:
    flat = value("flat", 2, 2)
    lowered = [*MAKERS[:2], viewed(a, flat), joined(ab, flat, b)]
    roots = Roots(lowered, (x, ab))
    assert roots.place(flat) == roots.place(a) == (ab, 0)
    assert copies(lowered, x, ab) == [[]]
    assert copies(lowered, x, ab, a) == [["flat"]]  # it goes outside under its other name


def test_nothing_overwrites_a_part_and_a_part_overwrites_nothing() -> None:
    over_b, y = value("over_b"), value("y")
    overwriting = made(a, y=b)
    assert overwriting.site is not None
    overwriting.site.may_overwrite(b, a)  # b is a part: it has its place
    reading = made(b, y=over_b)
    assert reading.site is not None
    reading.site.may_overwrite(over_b, b)  # b is a part: others need it
    bc = value("bc", 8)
    lowered = [MAKERS[0], overwriting, MAKERS[2], reading, joined(bc, b, c), made(over_b, y=y)]
    roots = Roots(lowered, (x, y, bc))
    assert roots.place(b) == (bc, 0)
    assert roots.of(a) is a
    assert roots.of(over_b) is over_b


def test_an_output_is_alive_from_its_first_part_on() -> None:
    """What is made between the parts and the Concat must not lie in its memory."""
    between, y = value("between", 100), value("y")
    lowered = [MAKERS[0], made(x, y=between), made(between, y=b), joined(ab, a, b), made(ab, y=y)]
    program = Program(lowered, [x], [y], team_of())
    place, part = program.place_of(between), program.place_of(b)
    assert part.offset == 16
    begin = program.place_of(ab).index
    assert place.index >= begin + ab.nbytes or place.index + between.nbytes <= begin
    ledger = ArenaLedger([program], {})
    ledger.ran(program.lowered[1], "between", 0.0, 1.0)
    shown = {held.name: held.bytes for held in ledger.timeline(0, 0).alive}
    assert shown == {"ab": 32, "between": 400, "y": 16}


# --- whole graphs -----------------------------------------------------------------------------------


def session(model: str | onnx.ModelProto, backend: str = "numba", **options: Any) -> InferenceSession:
    parsed = onnx.parser.parse_model(HEAD + model) if isinstance(model, str) else model
    return InferenceSession(parsed, backend=backend, **options)


def agrees(model: str | onnx.ModelProto, x: Array) -> list[int]:
    """Assert that native code gives the bits of the reference; return how many parts each Concat copies."""
    native_, wanted = session(model, precision="strict"), session(model, "numpy").run(None, {"x": x})
    for _ in range(2):  # the second run finds what the first left in memory
        for y, e in zip(native_.run(None, {"x": x}), wanted, strict=True):
            np.testing.assert_array_equal(y, e, strict=True)
    joins = [
        found
        for region in native_.native_regions()
        if isinstance(region.program, Program)
        for found in region.program.lowered
        if found.op.op_type == "Concat"
    ]
    return [sum(site_parts_copied(found)) for found in joins]


def site_parts_copied(found: Lowered) -> list[bool]:
    """Return for each input of a native Concat whether there are calls that copy it."""
    assert found.site is not None, found.reason
    read = {getattr(argument, "owner", argument) for call in found.calls for argument in call.arguments}
    return [x in read for x in found.op.inputs]


def numbers(*shape: int) -> Array:
    """Return small integers, whose sums are exact."""
    return RNG.integers(-3, 4, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("graph", "shape", "copied"),
    [
        ("(y) { a = Relu(x) b = Neg(x) y = Concat<axis = 0>(a, b) }", (3, 5), [0]),
        ("(y) { a = Relu(x) b = Neg(x) y = Concat<axis = 1>(a, b) }", (3, 5), [2]),
        ("(y) { a = Relu(x) b = Neg(x) y = Concat<axis = -1>(a, b) }", (1, 5), [0]),
        ("(y) { a = Relu(x) y = Concat<axis = 0>(x, a) }", (3, 5), [1]),
        ("(y, a) { a = Relu(x) y = Concat<axis = 0>(x, a) }", (3, 5), [2]),
        ("(y, z) { a = Relu(x) b = Neg(x) z = Abs(b) y = Concat<axis = 0>(a, b) }", (3, 5), [0]),
        ("(y) { a = Hardmax(x) b = Neg(x) y = Concat<axis = 0>(b, a) }", (3, 5), [0]),
        ("(y, z) { a = Relu(x) b = Neg(x) y = Concat<axis = 0>(a, b) z = Hardmax(b) }", (3, 5), [0]),
        ("(z) { a = Relu(x) b = Neg(x) y = Concat<axis = 0>(a, b) z = Hardmax(y) }", (3, 5), [0]),
        (
            "(y, z) { a = Relu(x) b = Neg(x) z = Concat<axis = 0>(a, b) y = Concat<axis = 0>(b, a) }",
            (3, 5),
            [0, 2],
        ),
    ],
)
def test_plain_tensors(graph: str, shape: tuple[int, ...], copied: list[int]) -> None:
    declared = ", ".join(map(str, shape))
    assert agrees(f"g (float[{declared}] x) => {graph}", numbers(*shape)) == copied


class Drawn:
    """A graph that grows node by node, as a model."""

    def __init__(self, images: int, height: int = 6, width: int = 7) -> None:
        self.shape = (images, LANES, height, width)
        self.channels = {"x": LANES}
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, op_type: str, *reads: str, channels: int | None = None, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        data = [read for read in reads if read in self.channels]
        self.nodes.append(onnx.helper.make_node(op_type, list(reads), [name], **attributes))
        self.channels[name] = self.channels[data[0]] if channels is None else channels
        return name

    def conv(self, x: str, channels: int, kernel: int) -> str:
        """Add a convolution with two weights for each output, so that sums stay small and exact."""
        w = np.zeros((channels, self.channels[x] * kernel * kernel), np.float32)
        for row in w:
            row[RNG.choice(w.shape[1], 2, replace=False)] = RNG.choice([-1.0, 1.0], 2)
        name = f"w{len(self.weights)}"
        shaped = w.reshape(channels, self.channels[x], kernel, kernel)
        self.weights.append(onnx.numpy_helper.from_array(shaped, name))
        return self.add("Conv", x, name, channels=channels, pads=[kernel // 2] * 4)

    def concat(self, *parts: str) -> str:
        return self.add("Concat", *parts, channels=sum(self.channels[x] for x in parts), axis=1)

    def model(self, *outputs: str) -> onnx.ModelProto:
        float_ = onnx.TensorProto.FLOAT
        given = onnx.helper.make_tensor_value_info("x", float_, self.shape)
        wanted = [
            onnx.helper.make_tensor_value_info(y, float_, [self.shape[0], self.channels[y], *self.shape[2:]])
            for y in outputs
        ]
        graph = onnx.helper.make_graph(self.nodes, "g", [given], wanted, self.weights)
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


def test_blocks_of_several_images_are_copied() -> None:
    for images, copied in ((1, 0), (2, 2)):
        g = Drawn(images)
        a, b = g.conv("x", 2 * LANES, 1), g.conv("x", LANES, 3)
        y = g.conv(g.concat(a, b), LANES, 1)
        assert agrees(g.model(y), numbers(*g.shape)) == [copied]


def test_only_the_last_part_may_end_within_a_block() -> None:
    g = Drawn(1)
    a, b = g.conv("x", LANES, 1), g.conv("x", LANES + 3, 3)
    y = g.conv(g.concat(a, b), LANES, 3)
    assert agrees(g.model(y), numbers(*g.shape)) == [0]


def test_parts_have_the_border_that_any_of_them_needs() -> None:
    g = Drawn(1)
    a, b = g.conv("x", LANES, 1), g.conv("x", LANES, 1)
    read = g.conv(b, LANES, 5)  # b needs a border of 2, what is joined one of 1
    y = g.conv(g.concat(a, b), LANES, 3)
    model = g.model(g.add("Add", read, y))
    native_ = session(model, precision="strict")
    assert agrees(model, numbers(*g.shape)) == [0]
    native_.run(None, {"x": numbers(*g.shape)})
    (region,) = native_.native_regions()
    assert isinstance(region.program, Program)
    (join,) = [found for found in region.program.lowered if found.op.op_type == "Concat"]
    wanted = Blocked(LANES, (2, 2, 2, 2))
    assert {v.layout for v in (*join.op.inputs, *join.op.outputs) if v is not None} == {wanted}
    assert not join.calls  # nor is there a border left to zero


def test_dense_blocks() -> None:
    for repeated in (False, True):
        g = Drawn(1)
        features = [g.conv("x", LANES, 1)]
        whole = features[0]
        for _ in range(3):
            features.append(g.conv(g.add("Relu", whole), LANES, 3))
            whole = g.concat(*features) if repeated else g.concat(whole, features[-1])
        y = g.conv(whole, LANES, 1)
        assert agrees(g.model(y), numbers(*g.shape)) == [0, 0, 0]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_graph(data: st.DataObject) -> None:
    """Concat of anything with anything gives what the reference gives, bit by bit."""
    g = Drawn(data.draw(st.sampled_from((1, 1, 1, 2))))
    for _ in range(data.draw(st.integers(2, 9))):
        known = st.sampled_from(sorted(g.channels))
        kind = data.draw(st.sampled_from(("Concat", "Concat", "Conv", "Relu", "Neg", "Hardmax", "MaxPool")))
        if kind == "Concat":
            parts = data.draw(st.lists(known, min_size=1, max_size=4))
            if sum(g.channels[p] for p in parts) <= 12 * LANES:
                g.concat(*parts)
        elif kind == "Conv":
            channels = data.draw(st.sampled_from((LANES, 2 * LANES, LANES + 3)))
            g.conv(data.draw(known), channels, data.draw(st.sampled_from((1, 3))))
        elif kind == "MaxPool":
            g.add(kind, data.draw(known), kernel_shape=[3, 3], pads=[1] * 4)
        else:
            g.add(kind, data.draw(known))
    made_ = sorted(set(g.channels) - {"x"})
    if made_:
        last = [f"v{len(g.nodes) - 1}"]
        others = data.draw(st.lists(st.sampled_from(made_), max_size=2))
        agrees(g.model(*dict.fromkeys([*last, *others])), numbers(*g.shape))
