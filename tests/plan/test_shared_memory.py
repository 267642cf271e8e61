"""What values share memory, by carrying programs out: no op meets what another one has left in its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxref.dtypes import Array
from onnxref.gpu import Kernel, Launch
from onnxref.lowering import ACCESS, Address, Op, Operand, PackCache, Site
from onnxref.plan.specialize import DeviceConstants, DeviceProgram, Lowered
from onnxref.plan.specialize._roots import Roots
from tests.gpu.planned import RecordingDevice

FLOAT = np.dtype(np.float32)
KERNEL = Kernel("onnxref.kernels.cupy.code", "common.cuh", "nothing")
ALIGNED = ACCESS // FLOAT.itemsize  # elements


def value(name: str, size: int, constant: Array | None = None) -> Operand:
    return Operand((size,), FLOAT, name, constant)


def summed(y: Operand, *reads: Operand, over: Operand | None = None) -> Lowered:
    """Return an op that adds its inputs, each repeated to the size of the output, element by element."""
    site = Site(Op("Sum", list(reads), [y]))
    site.launch(KERNEL, *reads, y, grid=(1, 1, 1))
    if over is not None:
        site.may_overwrite(y, over)
    return Lowered(site.op, site)


def viewed(y: Operand, x: Operand, begin: int = 0) -> Lowered:
    """Return an op whose output is the input from an element on."""
    site = Site(Op("Slice", [x], [y]))
    site.alias(y, x, begin * FLOAT.itemsize)
    return Lowered(site.op, site)


def together(launches: Sequence[Launch]) -> list[Launch]:
    """Return one launch for several copies."""
    pairs = (pair for launch in launches for pair in launch.arguments[0])
    return [Launch(KERNEL, (tuple(pairs),), (1, 1, 1), (1, 1, 1))]


def joined(y: Operand, *parts: Operand) -> Lowered:
    """Return an op whose output is made up of its inputs, with a launch for each."""
    site = Site(Op("Concat", list(parts), [y]))
    begin = 0
    for x in parts:
        with site.part(y, x, begin):
            site.launch(KERNEL, (x, y + begin), grid=(1, 1, 1), join=together)
        begin += x.nbytes
    return Lowered(site.op, site)


def alone(inputs: Sequence[Operand], lowered: Sequence[Lowered]) -> dict[Operand, Array]:
    """Return all values, each in memory of its own."""
    held = {x: np.arange(x.size, dtype=FLOAT) + 1000 * i for i, x in enumerate(inputs)}

    def known(x: Operand) -> Array:
        return held[x] if x.constant is None else x.constant

    for found in lowered:
        (y,) = found.op.outputs
        reads = [known(x) for x in found.op.inputs if x is not None]
        assert y is not None
        assert found.site is not None
        if found.op.op_type == "Sum":
            held[y] = np.sum([np.resize(x, y.size) for x in reads], axis=0, dtype=FLOAT) + FLOAT.type(1)
        elif found.op.op_type == "Concat":
            held[y] = np.concatenate(reads)
        elif found.op.op_type == "Last":
            held[y] = reads[-1]
        else:
            begin = found.site.aliases[0].offset // FLOAT.itemsize
            held[y] = reads[0][begin : begin + y.size]
    return held


class Memory:
    """The arena of a program, with constants behind it."""

    def __init__(self, program: DeviceProgram, constants: Sequence[Operand]) -> None:
        self.program = program
        self.cells = np.full(program.arena_bytes // FLOAT.itemsize, np.nan, FLOAT)
        self.begins: dict[Operand, int] = {}
        for x in constants:
            assert x.constant is not None
            self.begins[x] = self.cells.size
            self.cells = np.concatenate([self.cells, x.constant])

    def of(self, given: Any) -> Array:
        """Return the cells from an operand's or an address's begin on."""
        operand, offset = (given.owner, given.offset) if isinstance(given, Address) else (given, 0)
        root, inner = self.program.roots.place(operand)
        assert inner % ACCESS == 0, f"{operand.name} begins where no wide access may"
        begin = self.begins.get(root)
        if begin is None:
            begin = self.program.places[root].offset // FLOAT.itemsize
        return self.cells[begin + (inner + offset) // FLOAT.itemsize :]

    def run(self, found: Lowered) -> None:
        for launch in found.launches:
            assert isinstance(launch, Launch)
            if isinstance(launch.arguments[0], tuple):  # copies, which may come in any order
                pairs = launch.arguments[0]
                for x, y in reversed(list(zip(pairs[::2], pairs[1::2], strict=True))):
                    self.of(y)[: x.size] = self.of(x)[: x.size].copy()
                continue
            *reads, goal = launch.arguments
            sources, cells = [(self.of(x), x.size) for x in reads], self.of(goal)
            for i in range(goal.size):  # in the order that a card may choose: any
                cells[i] = np.sum([cells_[i % size] for cells_, size in sources], dtype=FLOAT) + FLOAT.type(1)


def check(inputs: list[Operand], outputs: list[Operand], lowered: list[Lowered]) -> DeviceProgram:
    """Assert that a program computes what it does with memory for each value; return it."""
    device = RecordingDevice()
    program = DeviceProgram(lowered, inputs, outputs, device, DeviceConstants(device, PackCache()))
    wanted = alone(inputs, lowered)
    read = {x for found in lowered for x in found.op.inputs if x is not None}
    memory = Memory(program, [x for x in read if x.constant is not None])
    for x in inputs:
        memory.of(x)[: x.size] = wanted[x]
    for found in program.lowered:
        memory.run(found)
    for y in outputs:
        np.testing.assert_array_equal(memory.of(y)[: y.size], wanted[y], err_msg=y.name)
    return program


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[Operand], list[Operand], list[Lowered]]:
    """Draw (inputs, outputs, ops) of sums that may overwrite, of ranges, and of what is joined."""
    sizes = st.sampled_from((1, 4, 8, 12, 16, 20))
    inputs = [value(f"x{i}", draw(sizes)) for i in range(draw(st.integers(1, 2)))]
    known, lowered = list(inputs), []
    if draw(st.booleans()):
        known.append(value("constant", 16, np.arange(16, dtype=FLOAT) / 4))
    for index in range(draw(st.integers(2, 10))):
        kind = draw(st.sampled_from(("sum", "sum", "view", "view", "join")))
        reads = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
        first = reads[0]
        if kind == "view":
            begin = ALIGNED * draw(st.integers(0, (first.size - 1) // ALIGNED))
            y = value(f"v{index}", draw(st.integers(1, first.size - begin)))
            lowered.append(viewed(y, first, begin))
        elif kind == "join":
            y = value(f"j{index}", sum(x.size for x in reads))
            lowered.append(joined(y, *reads))
        else:
            size = draw(st.sampled_from((first.size, max(x.size for x in reads))))
            y = value(f"s{index}", size)
            over = next((x for x in reads if x.size == size and draw(st.booleans())), None)
            lowered.append(summed(y, *reads, over=over))
        known.append(y)
    made = [x for x in known if x.constant is None]
    return inputs, draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True)), lowered


@settings(max_examples=300, deadline=None)
@given(programs())
def test_any_program(drawn: tuple[list[Operand], list[Operand], list[Lowered]]) -> None:
    check(*drawn)


x = value("x", 16)


def test_nothing_overwrites_what_a_range_of_is_still_read() -> None:
    a, half, b, y = value("a", 16), value("half", 8), value("b", 16), value("y", 16)
    lowered = [summed(a, x), viewed(half, a, 8), summed(b, a, over=a), summed(y, b, half)]
    program = check([x], [y], lowered)
    assert program.roots.of(b) is not program.roots.of(a)


def test_an_op_does_not_overwrite_what_it_reads_a_range_of() -> None:
    a, half, y, z = value("a", 16), value("half", 8), value("y", 16), value("z", 4)
    lowered = [summed(a, x), viewed(half, a), summed(y, a, half, over=a), summed(z, y)]
    program = check([x], [z], lowered)
    assert program.roots.of(y) is y
    same = value("same", 16)
    lowered = [summed(a, x), viewed(same, a), summed(y, a, same, over=a), summed(z, y)]
    program = check([x], [z], lowered)
    assert program.roots.of(y) is a  # each element is read before it is written


def test_nothing_lies_where_a_range_of_something_lay() -> None:
    """It would be as large as the range, and begin within."""
    a, half, y, z = value("a", 16), value("half", 8), value("y", 8), value("z", 8)
    program = check([x], [z], [summed(a, x), viewed(half, a, 8), summed(y, half, over=half), summed(z, y)])
    assert program.roots.of(y) is y


@pytest.mark.parametrize("is_last", [False, True])
def test_a_range_of_something_is_no_part(is_last: bool) -> None:
    a, half, b, c, y = value("a", 16), value("half", 8), value("b", 8), value("c", 16), value("y", 32)
    parts = (b, half, c) if is_last else (half, b, c)
    lowered = [summed(a, x), viewed(half, a, 8 * is_last), summed(b, x), summed(c, x), joined(y, *parts)]
    program = check([x], [y], lowered)
    assert program.roots.of(half) is a
    assert program.roots.of(b) is y
    assert len(program.lowered[-1].launches) == 1


def test_a_range_of_a_part_lies_with_it() -> None:
    a, half, b, y, z = value("a", 16), value("half", 8), value("b", 4), value("y", 20), value("z", 8)
    program = check([x], [y, z], [
        summed(a, x), viewed(half, a, 8), summed(b, x), joined(y, b, a), summed(z, half)
    ])  # fmt: skip
    assert program.roots.place(half) == (y, 16 + 32)


def test_what_is_made_up_of_ranges_in_another_order_stays() -> None:
    a, first, last = value("a", 16), value("first", 8), value("last", 8)
    y, z = value("y", 16), value("z", 32)
    program = check([x], [z], [
        summed(a, x), viewed(first, a), viewed(last, a, 8), joined(y, last, first), joined(z, a, y)
    ])  # fmt: skip
    assert program.roots.place(a) == (z, 0)
    assert program.roots.place(y) == (z, 64)  # it is copied, to where it will lie
    assert len(program.lowered[3].launches) == 1


@pytest.mark.parametrize("size", [1, 3, 4])
def test_parts_begin_where_wide_accesses_may(size: int) -> None:
    a, b, y = value("a", size), value("b", 8), value("y", size + 8)
    program = check([x], [y], [summed(a, x), summed(b, x), joined(y, a, b)])
    assert program.roots.of(a) is y
    assert (program.roots.of(b) is y) == (size == ALIGNED)
    assert Roots(program.lowered, [x, y]).of(b) is y  # where any place will do


def test_ranges_of_what_goes_outside_and_of_constants() -> None:
    held = value("held", 16, np.arange(16, dtype=FLOAT))
    a, b, y = value("a", 8), value("b", 4), value("y", 8)
    lowered = [viewed(a, held, 8), viewed(b, x, 12), summed(y, a, b)]
    program = check([x], [y, a, b], lowered)
    assert program.roots.place(b) == (x, 48)
    assert program.roots.place(a) == (held, 32)


def test_what_is_joined_does_not_overwrite_what_it_reads() -> None:
    a, half, b, c = value("a", 16), value("half", 8), value("b", 16), value("c", 16)
    y, z, end = value("y", 12), value("z", 4), value("end", 16)
    site = Site(Op("Last", [a, b], [c]))
    site.launch(KERNEL, (b, c), grid=(1, 1, 1), join=together)
    site.may_overwrite(c, a)
    lowered = [summed(a, x), summed(b, a), summed(z, x), viewed(half, a, 8), joined(y, half, z)]
    program = check([x], [y, end], [*lowered, Lowered(site.op, site), summed(end, c)])
    assert program.roots.of(c) is a
    assert [len(found.launches) for found in program.lowered] == [1, 1, 1, 0, 1, 1, 1]
