"""Copies between boxes on a GPU, and what the lowerings that move elements share.

Elements are moved as unsigned integers of their size, so copies are exact for every type. A copy is one
launch: rows in the widest units that all addresses allow, a permutation of the innermost axis in
tiles through shared memory, everything else element by element into a dense goal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from onnxref.gpu import Kernel, Launch, cuda_kernel
from onnxref.lowering import (
    ACCESS,
    NO_PAD,
    Blocked,
    BlockedUse,
    ChannelsLast,
    Op,
    Operand,
    Packed,
    Place,
    Scratch,
    Site,
    Unsupported,
)

from ..common.checks import only_output
from ..common.strides import Dim, join_dims
from ..numpy._common import row_strides

CODE = "onnxref.kernels.cupy.code"
THREADS = 256
MOST_INT = 1 << 30  # indices and offsets up to this are computed in 32 bits
_MANY = 1 << 22  # bytes from which a thread has several units to move: about what all threads of a card hold
_TAIL = 1 << 12  # bytes of a contiguous copy from which its odd end becomes a launch of its own
_LEAST_TILE = 16  # elements along both axes from which a permutation goes through tiles
MOST_PIECES = 8  # boxes of a launch: their addresses and axes are its arguments,
_MOST_AXES = 1 << 8  # of which there are 4 KiB at most: so many numbers say how they lie


# --- what lowerings check ------------------------------------------------------------------------


def check_plain(*operands: Operand | None) -> None:
    """Refuse tensors that do not lie in C order."""
    for operand in operands:
        if operand is not None and operand.layout is not None:
            raise Unsupported(f"{operand}")


# --- how tensors lie -----------------------------------------------------------------------------


def strides_of(operand: Operand) -> tuple[int, ...]:
    """Return the strides of a tensor's axes, in elements, in the layout that it has."""
    if operand.layout is None:
        return row_strides(operand.shape)
    if not isinstance(operand.layout, ChannelsLast):
        raise Unsupported(f"{operand}")
    n, c, *spatial = operand.shape
    batch, *others = row_strides((n, *spatial))
    pitch = operand.layout.pitch or c
    return (batch * pitch, 1, *(step * pitch for step in others))


def pitch_of(operand: Operand) -> int:
    """Return how many elements a pixel lies behind the one before, of a tensor with the channels last."""
    pitch = operand.layout.pitch if isinstance(operand.layout, ChannelsLast) else 0
    return pitch or operand.shape[1]


def is_dense(operand: Operand) -> bool:
    """Whether no elements of other tensors lie between those of a tensor."""
    return operand.layout is None or pitch_of(operand) == operand.shape[1]


def dense(site: Site, x: Operand) -> Operand | Scratch:
    """Return where a tensor lies without gaps: a copy if need be."""
    if is_dense(x):
        return x
    made = site.scratch(x.nbytes)
    lying = replace(x, layout=ChannelsLast(), place=None)
    emit_box(site, made, x, whole_box(lying, x))
    return made


def spread(site: Site, goal: Operand, source: Operand | Scratch) -> None:
    """Copy a tensor that lies without gaps, with the channels last, to where it is to lie."""
    lying = replace(goal, layout=ChannelsLast(), place=None)
    emit_box(site, goal, source, whole_box(goal, lying))


def whole_box(goal: Operand, source: Operand) -> list[Dim]:
    """Return the box of a whole tensor, as it lies on both sides."""
    return [Dim(*axis) for axis in zip(goal.shape, strides_of(goal), strides_of(source), strict=True)]


def lying_order(layout: Blocked | None, rank: int) -> tuple[int, ...]:
    """Return the axes from the outermost to the innermost in memory."""
    return tuple(range(rank)) if layout is None else (0, *range(2, rank), 1)


def goes_along(op: Op, lanes: int) -> BlockedUse | None:
    """The first input and all outputs lie with the channels last, if the first input does."""
    x = op.inputs[0] if op.inputs else None
    outputs = tuple(i for i, y in enumerate(op.outputs) if y is not None)
    if x is None or any(y is not None and y.ndim != x.ndim for y in op.outputs):
        return None
    return BlockedUse({0: NO_PAD}, outputs) if x.ndim >= 3 and outputs else None


# --- boxes ---------------------------------------------------------------------------------------


def collapsed(dims: Iterable[Dim]) -> list[Dim]:
    """Order dimensions as the goal lies, and join those that are one; at least one is left."""
    return join_dims(sorted(dims, key=lambda d: -d.goal)) or [Dim(1, 1, 1)]


def magic(size: int) -> int:
    """Return what `quotient` of `units.cuh` divides by a size with: factor and shift, 0 for size 1."""
    if size <= 1:
        return 0
    power = 31 + (size - 1).bit_length()
    return ((power - 32) << 32) | -(-(1 << power) // size)


def index_type(*extents: int) -> str:
    """Return the type in which indices up to these extents are computed."""
    return "int" if max(extents, default=0) < MOST_INT else "int64_t"


def widest(size: int, *nbytes: int) -> int:
    """Return the largest access, in bytes, that divides these numbers of bytes; elements have `size`."""
    return max(size, math.gcd(ACCESS, *nbytes))


def reach(dims: Iterable[Dim]) -> int:
    """Return a bound for what is added to any address of a box, in elements."""
    return sum(d.size * max(abs(d.goal), abs(d.source)) for d in dims)


def emit_box(
    site: Site,
    goal: Operand | Scratch,
    source: Operand | Packed | Scratch,
    dims: Iterable[Dim],
    *,
    goal_offset: int = 0,
    source_offset: int = 0,
    alone: bool = False,
) -> None:
    """Add the launch that copies a box of elements of one type; offsets count elements.

    What lies where it is to be copied needs none.

    Args:
        alone: whether it depends on what the node has launched before, so that one launch cannot do both.
    """
    held = list(dims)
    if _lies_there(goal, source, held, goal_offset, source_offset):
        return
    size = next(x.dtype.itemsize for x in (goal, source) if isinstance(x, Operand))
    if math.prod(d.size for d in held):
        mover = _Mover(site, goal, source, size, alone)
        mover.move(collapsed(held), goal_offset, source_offset)


def _lies_there(
    goal: Operand | Scratch,
    source: Operand | Packed | Scratch,
    dims: Sequence[Dim],
    goal_offset: int,
    source_offset: int,
) -> bool:
    """Whether both sides of a box are the same memory, by the planner's decision."""
    if not isinstance(goal, Operand) or not isinstance(source, Operand):
        return False
    places = [
        Place(at.owner, at.offset + offset * goal.dtype.itemsize)
        for at, offset in ((goal.whole, goal_offset), (source.whole, source_offset))
    ]
    return places[0] == places[1] and all(d.goal == d.source for d in dims if d.size > 1)


def emit_range(
    site: Site, output: Operand, data: Operand, dims: Iterable[Dim], *, source_offset: int = 0
) -> None:
    """Make a whole output of a box of `data`: a view where that is one range of its memory, else a copy."""
    held = list(dims)
    begin = source_offset * data.dtype.itemsize
    is_one = output.size > 0 and collapsed(held) in ([Dim(output.size, 1, 1)], [Dim(1, 1, 1)])
    if is_one and begin % ACCESS == 0 and output.place is None:
        site.alias(output, data, begin)
    else:
        emit_box(site, output, data, held, source_offset=source_offset)


@dataclass(frozen=True, slots=True)
class _Mover:
    """Chooses the kernel for a box."""

    site: Site
    goal: Operand | Scratch
    source: Operand | Packed | Scratch
    size: int
    alone: bool

    def move(self, dims: list[Dim], to: int, origin: int) -> None:
        size, last = self.size, dims[-1]
        dense = all(
            d.goal == stride for d, stride in zip(dims, row_strides([d.size for d in dims]), strict=True)
        )
        if last.goal == last.source == 1:
            strides = [n * size for d in dims[:-1] for n in (d.goal, d.source)]
            unit = widest(size, last.size * size, to * size, origin * size, *strides)
            contiguous = widest(size, to * size, origin * size)
            if len(dims) == 1 and unit < contiguous and last.size * size >= _TAIL:
                body = last.size * size // contiguous * contiguous // size
                self._rows([Dim(body, 1, 1)], to, origin, contiguous)
                dims, to, origin = [Dim(last.size - body, 1, 1)], to + body, origin + body
                unit = widest(size, dims[0].size * size, to * size, origin * size)
            if unit >= 8 or not dense or len(dims) == 1:
                self._rows(dims, to, origin, unit)
                return
        elif last.goal == 1 and self._tiles(dims, to, origin):
            return
        vector = math.gcd(ACCESS // size, to) if dense else 1
        if dense and (vector > 1 or last.source != 1):
            self._dense(dims, to, origin, vector)
        else:
            self._rows(dims, to, origin, size)

    def _rows(self, dims: list[Dim], to: int, origin: int, unit: int) -> None:
        """Copy in units of so many bytes: a whole number of them along the last dimension."""
        ratio = unit // self.size
        if ratio > 1:
            outer = [Dim(d.size, d.goal // ratio, d.source // ratio) for d in dims[:-1]]
            dims = [*outer, Dim(dims[-1].size // ratio, 1, 1)]
        total = math.prod(d.size for d in dims)
        items = 4 if total * unit >= _MANY else 1
        kernel = self._kernel("box", dims, UNIT=unit, ITEMS=items)
        self._launch(kernel, dims, to, origin, total, -(-total // (THREADS * items)))

    def _dense(self, dims: list[Dim], to: int, origin: int, vector: int) -> None:
        total = math.prod(d.size for d in dims)
        kernel = self._kernel("dense", dims, UNIT=self.size, VEC=vector)
        self._launch(kernel, dims, to, origin, total, -(-total // (THREADS * vector)))

    def _launch(self, kernel: Kernel, dims: list[Dim], to: int, origin: int, total: int, blocks: int) -> None:
        self.site.launch(
            kernel,
            *(self.source + origin * self.size, self.goal + to * self.size, total, _axes(dims)),
            grid=(blocks, 1, 1),
            block=(THREADS, 1, 1),
            join=None if self.alone or not _is_joinable(kernel) else join_boxes,
        )

    def _tiles(self, dims: list[Dim], to: int, origin: int) -> bool:
        """Copy through tiles if the innermost axes of both sides are long enough; say whether it is done."""
        across, size = dims[-1], self.size
        along = next((d for d in dims if d.source == 1), None)
        if along is None or min(along.size, across.size) < _LEAST_TILE:
            return False
        outer = [d for d in dims if d is not across and d is not along] or [Dim(1, 0, 0)]
        pack = math.gcd(max(1, 4 // size), along.size, across.size, along.goal, across.source, to, origin)
        pack = math.gcd(pack, *(n for d in outer for n in (d.goal, d.source)))
        tile = 32 * pack
        tiles = -(-along.size // tile), -(-across.size // tile)
        blocks = math.prod(tiles) * math.prod(d.size for d in outer)
        plane = (along.size, across.size, *tiles, *map(magic, tiles), across.source, along.goal)
        self.site.launch(
            self._kernel("transpose", dims, len(outer), UNIT=size, TILE=tile, PACK=pack),
            *(self.source + origin * size, self.goal + to * size, _axes(outer), plane),
            grid=(blocks, 1, 1),
            block=(32, 8, 1),
        )
        return True

    def _kernel(self, entry: str, dims: list[Dim], rank: int | None = None, **defines: int) -> Kernel:
        index = index_type(reach(dims) + THREADS * ACCESS, math.prod(d.size for d in dims))
        return cuda_kernel(
            CODE, f"{entry}.cu", entry, RANK=len(dims) if rank is None else rank, INDEX=index, **defines
        )


def _axes(dims: Sequence[Dim]) -> tuple[int, ...]:
    sizes = [d.size for d in dims]
    return (*sizes, *map(magic, sizes), *(d.source for d in dims), *(d.goal for d in dims))


# --- several boxes in one launch -----------------------------------------------------------------


def join_boxes(launches: Sequence[Launch]) -> list[Launch]:
    """Return fewer launches that do what these do, which are of `box` and of `dense` and independent.

    Each piece keeps its unit and has as many blocks as it needs, so that none is idle.
    """
    rank = max(int(_defines(launch)["RANK"]) for launch in launches)
    most = max(1, min(MOST_PIECES, _MOST_AXES // (4 * rank)))
    groups = [launches[i : i + most] for i in range(0, len(launches), most)]
    return [group[0] if len(group) == 1 else _joined(group) for group in groups]


def _joined(launches: Sequence[Launch]) -> Launch:
    defines = [_defines(launch) for launch in launches]
    sources, goals, totals, lying = zip(*(launch.arguments for launch in launches), strict=True)
    # As the kernel has it: the bytes of a unit, negative for a dense goal.
    kinds = [
        d["UNIT"] if launch.kernel.entry == "box" else -d["UNIT"]
        for launch, d in zip(launches, defines, strict=True)
    ]
    items = 4 if sum(n * abs(kind) for n, kind in zip(totals, kinds, strict=True)) >= _MANY else 1
    rank = max(d["RANK"] for d in defines)
    begins, blocks = [], 0
    for total, kind in zip(totals, kinds, strict=True):
        begins.append(blocks)
        blocks += -(-total // (THREADS * (items if kind > 0 else ACCESS // -kind)))
    # Few variants: the places of pieces that are not there are behind the last block.
    count = 1 << (len(launches) - 1).bit_length()
    nothing = [0] * (count - len(launches))
    pieces = [
        *(*sources, *nothing, *goals, *nothing, *totals, *nothing),
        *(*begins, *[blocks] * len(nothing), *kinds, *nothing),
    ]
    axes = [*(_with_rank(piece, rank) for piece in lying), *[[0] * (4 * rank)] * len(nothing)]
    kernel = cuda_kernel(
        CODE, "joined.cu", "joined", PIECES=count, ITEMS=items, RANK=rank,
        BOXES=sum({kind for kind in kinds if kind > 0}), DENSES=sum({-kind for kind in kinds if kind < 0}),
        INDEX="int" if all(d["INDEX"] == "int" for d in defines) else "int64_t",
    )  # fmt: skip
    arguments = (tuple(pieces), tuple(chain.from_iterable(axes)))
    return Launch(kernel, arguments, (blocks, 1, 1), (THREADS, 1, 1))


def _is_joinable(kernel: Kernel) -> bool:
    """Whether a kernel moves as `joined.cu` does."""
    defines = dict(kernel.defines)
    return kernel.entry == "box" or defines["VEC"] == ACCESS // int(defines["UNIT"])


def _defines(launch: Launch) -> dict[str, Any]:
    return dict(launch.kernel.defines)


def _with_rank(axes: Sequence[int], rank: int) -> list[int]:
    """Return the axes of a box (see `copies.cuh`) with others of one element before them."""
    own = len(axes) // 4
    filled = ([fill] * (rank - own) for fill in (1, 0, 0, 0))
    return [n for i, fill in enumerate(filled) for n in (*fill, *axes[i * own : (i + 1) * own])]


# --- whole tensors -------------------------------------------------------------------------------


def emit_copy(site: Site, goal: Operand, source: Operand) -> None:
    """Add the launch that copies a whole tensor; it does nothing where both are the same memory."""
    emit_box(site, goal, source, [Dim(goal.size, 1, 1)])


def emit_alias(site: Site, data: Operand) -> None:
    """Make the output the input's memory; tensors in a layout keep it and their shape."""
    output = only_output(site)
    if output.size != data.size or output.dtype != data.dtype:
        raise Unsupported(f"{output} from {data}")
    is_plain = output.layout is None and data.layout is None
    if not is_plain and (output.layout != data.layout or output.shape != data.shape):
        raise Unsupported("a change of shape of tensors with the channels last")
    site.alias(output, data)
