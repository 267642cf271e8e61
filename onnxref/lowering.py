"""How an accelerated kernel set turns a node of known shapes into calls of native code.

A lowering is registered beside the reference kernel's name and versions and has a kernel's signature,
but it sees descriptions instead of arrays and computes nothing:

    @lower("Relu", since=(6, 13, 14))
    def relu(site, x):
        (y,) = site.outputs
        site.call(native(CODE, "relu", x.dtype.name), x, y, units=x.size, work=x.nbytes / 8)

The lowering contract
    1. After `site` it takes the node's inputs positionally (None for an absent one) and the attributes
       as keywords, with that version's defaults, as a kernel does.
    2. Shapes and dtypes of inputs and outputs are known. An input whose value is known while planning
       has it in `constant`. Tensors are C-contiguous where `layout` is None. Only lowerings that say so
       (`BlockedUse`) meet layouts, and pitches.
    3. It describes the work with `site.call`, in order. Operands among the arguments become addresses,
       floats become float64 bits (`arg_float`), ints stay ints.
    4. What it cannot do is `raise Unsupported(reason)`, before the first call; the reference kernel
       runs instead and `explain` shows the reason.
    5. A call's units are independent: any split over threads gives the same bits. Reductions across
       units are a second call.
    6. The native code reads no more than its inputs, writes nothing but its outputs and scratch, and
       writes all of its outputs.
    7. Code that meets values for which the specification demands an error (an index out of range) stores
       a nonzero int64 at the address that the argument `FAULT` becomes, and goes on without touching
       foreign memory. The region then runs again on the reference, which raises the error that is due.
    8. Tensors of strings are seen by lowerings that are registered with `text=True` alone, as inputs: their
       elements are addresses of Python objects, which are kept alive during a run and may only be read
       (`onnxref.native.text_layout`). What is no `str` of a kind that the code reads is reported by rule 7.
    9. A lowering for a GPU says `site.launch` and `site.library` instead of `site.call`; the other rules
       hold as they are, with blocks of threads for units.
"""

from __future__ import annotations

import importlib
import math
import struct
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from .dtypes import Array, DType, memory_owner
from .errors import BackendError
from .gpu import DeviceCall, Extent, Join, Kernel, Launch, LibraryCall, LibraryOp
from .graph import Node
from .native import NativeFunction, target
from .registry import ONNX

_L = TypeVar("_L", bound=Callable[..., None])
# Bytes of a cache line. Constants, scratch and what passes between ops begin at one; inputs and outputs may
# not: their memory is the caller's, or NumPy's.
LINE = 64
# Bytes of the widest access of a GPU's kernels: there all tensors begin at multiples, inside of others too.
ACCESS = 16

Pad: TypeAlias = tuple[int, int, int, int]  # top, left, bottom, right
NO_PAD: Pad = (0, 0, 0, 0)


class Unsupported(Exception):  # noqa: N818 - it is an answer, not an error
    """A lowering cannot do this node; the text says why."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """Channels in blocks of one vector: (N, C, H, W) lies as [N][C/lanes][top+H+bottom][left+W+right][lanes].

    The border holds zeros, so that a convolution may read its padding. Lanes past the last channel
    hold finite numbers of no meaning. (N, C, W) is seen as (N, C, 1, W).

    Attributes:
        lanes: channels in a block.
        pad: rows and columns around each plane.
    """

    lanes: int
    pad: Pad = NO_PAD

    def __str__(self) -> str:
        return f"in blocks of {self.lanes}"

    def extents(self, shape: Sequence[int]) -> tuple[int, int, int, int, int]:
        """Return (N, blocks, padded rows, padded columns, lanes)."""
        n, c, h, w = (*shape[:2], 1, shape[2]) if len(shape) == 3 else shape
        top, left, bottom, right = self.pad
        return n, -(-c // self.lanes), top + h + bottom, left + w + right, self.lanes

    def element_offset(self, shape: Sequence[int]) -> int:
        """Return the index of element (0, 0, 0, 0) in the buffer."""
        top, left, _, _ = self.pad
        return (top * self.extents(shape)[3] + left) * self.lanes

    def elements(self, shape: Sequence[int]) -> int:
        """Return how many elements lie from the first one's place to the last one's."""
        return math.prod(self.extents(shape))


@dataclass(frozen=True, slots=True)
class ChannelsLast(Blocked):
    """All channels in one block, for GPUs: (N, C, spatial...) lies as [N][spatial...][C], with no border.

    Attributes:
        pitch: elements from pixel to pixel, where the channels are a range of a wider tensor's
            (`Operand.place`); 0 where pixels lie one behind the other.
    """

    lanes: int = 0
    pitch: int = 0

    def __str__(self) -> str:
        return "with the channels last" + (f", pixels {self.pitch} apart" if self.pitch else "")

    def extents(self, shape: Sequence[int]) -> tuple[int, int, int, int, int]:
        """Return (N, 1, product of all spatial axes but the last, the last one, C)."""
        n, c, *spatial = shape
        return n, 1, math.prod(spatial[:-1]), spatial[-1], c

    def elements(self, shape: Sequence[int]) -> int:
        """Return how many elements lie from the first one's place to the last one's."""
        n, c, *spatial = shape
        pixels = n * math.prod(spatial)
        return (pixels - 1) * (self.pitch or c) + c if pixels else 0


@dataclass(slots=True, eq=False)
class Operand:
    """A tensor as the planner knows it.

    Attributes:
        name: the value's name in the model, or one that tells what it is.
        constant: its value, where that is known while planning.
        layout: how it lies in memory; None is C-contiguous.
        place: where in another operand it lies, as the planner decided before any lowering; None where it has
            memory of its own, or shares some by what a lowering declares.
    """

    shape: tuple[int, ...]
    dtype: DType
    name: str = ""
    constant: Array | None = None
    layout: Blocked | None = None
    place: Place | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the elements alone, whatever the layout."""
        return self.size * self.dtype.itemsize

    @property
    def whole(self) -> Place:
        """The operand that it lies in by the planner's decision, itself if in none, and where."""
        return self.place or Place(self, 0)

    @property
    def buffer_bytes(self) -> int:
        """Size of the memory that it lies in; of a range of channels, with all that lies in between."""
        if self.layout is None:
            return self.nbytes
        return self.layout.elements(self.shape) * self.dtype.itemsize

    def __add__(self, offset: int) -> Address:
        return Address(self, offset)

    def __str__(self) -> str:
        shown = f"{self.dtype.name}[{', '.join(map(str, self.shape))}]"
        return f"{shown} {self.layout}" if self.layout else shown


class Place(NamedTuple):
    """A place in another operand's memory, in bytes from its begin."""

    owner: Operand
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Scratch:
    """Memory that lives for one node.

    Attributes:
        nbytes: size, for each thread where `per_thread`, rounded up to cache lines.
        per_thread: the address is that of thread 0; thread t has its own at `t * nbytes` behind it.
        is_zeroed: it is this node's from run to run and holds zeros before each, see `Site.zeroed`.
    """

    nbytes: int
    per_thread: bool = False
    is_zeroed: bool = False

    def __add__(self, offset: int) -> Address:
        return Address(self, offset)


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """An array made while planning from constants: prepacked weights, tables."""

    array: Array

    def __add__(self, offset: int) -> Address:
        return Address(self, offset)


class Fault:
    """The place where native code leaves word that it met values it must refuse (contract rule 7)."""


FAULT = Fault()


@dataclass(frozen=True, slots=True, eq=False)
class Address:
    """A place in an operand's memory, in bytes from its begin."""

    owner: Operand | Scratch | Packed
    offset: int

    def __add__(self, offset: int) -> Address:
        return Address(self.owner, self.offset + offset)


Argument: TypeAlias = int | float | Operand | Scratch | Packed | Address | Fault
DeviceArgument: TypeAlias = Argument | tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of native code.

    Attributes:
        units: independent pieces of work.
        work: estimated time on one core in nanoseconds; decides whether threads pay.
        grain: fewest units worth a call of their own.
    """

    function: NativeFunction
    arguments: tuple[Argument, ...]
    units: int = 1
    work: float = 0.0
    grain: int = 1


@dataclass(slots=True, eq=False)
class Op:
    """A node of known shapes on its way through the planner's passes.

    Attributes:
        nodes: the model's nodes that it stands for, the one to name in messages first.
    """

    op_type: str
    inputs: list[Operand | None]
    outputs: list[Operand | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ONNX
    opset: int = 0
    nodes: tuple[Node, ...] = ()

    def __str__(self) -> str:
        return f"{self.domain + ':' if self.domain else ''}{self.op_type}"


class PackCache:
    """Arrays made from constants, shared by all shapes that a session meets.

    An array is found again by the identities of its sources and a key; the sources stay alive with it.

    Args:
        lasting: the cache of the model, for one that goes with a region's program: it keeps what is made of
            values that follow from that region's shapes, and leaves all else to the model's.
    """

    def __init__(self, lasting: PackCache | None = None) -> None:
        self._made: dict[Hashable, tuple[tuple[Any, ...], Array]] = {}
        self._outer = lasting
        self._owners: set[int] = set()

    def add_lasting(self, owners: Iterable[int]) -> None:
        """Take note of constants of the model, by the identities of the arrays that own their memory."""
        self._owners.update(owners)

    def lasts(self, source: Any) -> bool:
        """Whether a source lives as long as the model: a constant, made of constants, or no array at all."""
        return not isinstance(source, np.ndarray) or id(memory_owner(source)) in self._owners

    def get(self, sources: Sequence[Any], key: Hashable, build: Callable[[], Array]) -> Array:
        """Return the array that `build` makes, from here if it was made before."""
        if self._outer is not None and sources and all(map(self._outer.lasts, sources)):
            return self._outer.get(sources, key, build)
        full = (tuple(map(id, sources)), key)
        found = self._made.get(full)
        if found is None:
            array = aligned(build())
            found = self._made[full] = (tuple(sources), array)
            self._owners.add(id(memory_owner(array)))
        return found[1]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for _, array in self._made.values())


class Alias(NamedTuple):
    """An output that is memory of an input, from `offset` (bytes) on."""

    output: Operand
    input: Operand
    offset: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """An input whose buffer is a piece of an output's.

    Attributes:
        offset: where in the output's buffer it begins, in bytes.
        calls: what copies it there, needless where it lies there anyway.
    """

    output: Operand
    input: Operand
    offset: int
    calls: tuple[Call | DeviceCall, ...] = ()


@dataclass(slots=True, eq=False)
class Site:
    """What a lowering sees of its node, and where it leaves its calls.

    Attributes:
        precision: "default"; "strict": no result may depend on batch size or on an algorithm that
            trades accuracy for speed (Winograd); "bf16": products with constant weights may round both
            sides to bfloat16.
        hurried: the model runs natively with other shapes already: a function that is loaded is worth more
            than a slightly better one that would have to be compiled.
        launches: what a GPU does, in order.
        libraries: those that `library` may name: "cublaslt", "cudnn".
        aliases: outputs that are their input under another shape, or a range of it.
        overwrites: outputs that may take the place of an input that nothing needs afterwards.
        parts: inputs that may lie in an output from the begin.
        notes: what `explain` is to say of it besides.
    """

    op: Op
    packs: PackCache = field(default_factory=PackCache)
    precision: str = "default"
    hurried: bool = False
    calls: list[Call] = field(default_factory=list)
    launches: list[DeviceCall] = field(default_factory=list)
    libraries: frozenset[str] = frozenset(("cublaslt", "cudnn"))
    scratches: list[Scratch] = field(default_factory=list)
    aliases: list[Alias] = field(default_factory=list)
    overwrites: list[tuple[Operand, Operand]] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def outputs(self) -> tuple[Operand | None, ...]:
        """The node's outputs; None for those that nothing wants."""
        return tuple(self.op.outputs)

    @property
    def opset(self) -> int:
        return self.op.opset

    def call(
        self,
        function: NativeFunction,
        *arguments: Argument,
        units: int = 1,
        work: float = 0.0,
        grain: int = 1,
    ) -> None:
        """Add a call; see `Call`. Without units there is nothing to do and nothing is added."""
        if units > 0:
            self.calls.append(Call(function, arguments, units, work, grain))

    def launch(
        self,
        kernel: Kernel,
        *arguments: DeviceArgument,
        grid: Extent,
        block: Extent = (256, 1, 1),
        shared: int = 0,
        join: Join | None = None,
    ) -> None:
        """Add a launch of a CUDA kernel; see `onnxref.gpu.Launch`. A grid without blocks adds nothing.

        Launches of a node with one `join` must not depend on each other: the planner makes one of them, and
        of those of neighbouring nodes where these are independent too.
        """
        if math.prod(grid) > 0:
            self.launches.append(Launch(kernel, arguments, grid, block, shared, join))

    def library(self, op: LibraryOp, **tensors: Operand | Scratch | Packed | Address) -> None:
        """Add an operation of cuBLASLt or cuDNN over tensors, by role."""
        self.launches.append(LibraryCall(op, tuple(tensors.items())))

    def scratch(self, nbytes: int, *, per_thread: bool = False) -> Scratch:
        """Ask for memory during this node's calls; it begins at a cache line and holds anything."""
        made = Scratch(-(-nbytes // LINE) * LINE, per_thread)
        self.scratches.append(made)
        return made

    def zeroed(self, nbytes: int) -> Scratch:
        """Ask for memory that is zero when this node begins, and that its launches leave so (GPUs only).

        It is cleared when the memory of a program is made, and shared with nothing else. A launch that has
        begun ends, or all memory of its device is lost with it: counters in it cannot be left half counted.
        """
        made = Scratch(-(-nbytes // LINE) * LINE, is_zeroed=True)
        self.scratches.append(made)
        return made

    def pack(self, sources: Sequence[Operand], key: Hashable, build: Callable[[], Array]) -> Packed:
        """Return an array made from the constants of `sources`, made once per model and key.

        Args:
            key: all else that the array depends on, the operation's name first.
        """
        return Packed(self.packs.get([source.constant for source in sources], key, build))

    def alias(self, output: Operand, input: Operand, offset: int = 0) -> None:
        """Declare that `output` is the memory of `input`: the node needs no call (Reshape).

        Args:
            offset: where in it the output begins, in bytes: for GPUs alone, a multiple of `ACCESS`.

        Raises:
            Unsupported: the planner has given the output another place.
        """
        place = Place(input.whole.owner, input.whole.offset + offset)
        if output.whole == place:
            return
        if output.place is not None:
            raise Unsupported("an alias that lies in another tensor")
        self.aliases.append(Alias(output, input, offset))

    def may_overwrite(self, output: Operand, input: Operand) -> None:
        """Allow `output` to lie where `input` lay: each unit reads an element before it writes it."""
        self.overwrites.append((output, input))

    @contextmanager
    def part(self, output: Operand, input: Operand, offset: int) -> Iterator[None]:
        """Declare that the buffer of `input`, its border too, is that of `output` from `offset` (bytes) on.

        The calls made in the `with` block copy it there. The planner leaves them out where it has whoever
        makes `input` write it there. An output with parts is made up of them and of nothing else.
        """
        calls, launches = len(self.calls), len(self.launches)
        yield
        made = (*self.calls[calls:], *self.launches[launches:])
        self.parts.append(Part(output, input, offset, made))


@dataclass(frozen=True, slots=True, eq=False)
class ChannelRange:
    """A tensor that has the same elements as a range of another one's channels.

    Attributes:
        first: the first channel of the range.
    """

    whole: Operand
    part: Operand
    first: int


@dataclass(frozen=True, slots=True)
class BlockedUse:
    """How a node can work on blocked tensors.

    Attributes:
        inputs: index of each input that can be blocked -> the border it needs at least.
        outputs: indices of outputs that are blocked then.
        prefers: whether it is worth converting its inputs for it (a convolution), or it only goes along.
        one_border: whether its inputs and outputs are to have the same border, the largest that any of them
            needs: inputs can only be parts of an output (`Site.part`) if they have.
        pitched: whether these inputs and outputs may have a pitch (`ChannelsLast`).
        ranges: inputs that are a range of an output's channels (Concat), or outputs that are one of an
            input's (Split): it needs no launch for those that lie there.
    """

    inputs: Mapping[int, Pad]
    outputs: tuple[int, ...] = (0,)
    prefers: bool = False
    one_border: bool = False
    pitched: bool = False
    ranges: tuple[ChannelRange, ...] = ()


BlockedRule: TypeAlias = Callable[[Op, int], "BlockedUse | None"]


@dataclass(frozen=True, slots=True)
class Lowering:
    """One registered lowering."""

    domain: str
    op_type: str
    since: tuple[int, ...]
    emit: Callable[..., None]
    blocked: BlockedRule | None = None
    text: bool = False


ACCELERATED = ("numba", "cupy")

_tables: dict[str, dict[tuple[str, str], dict[int, Lowering]]] = {}


def lower(
    op_type: str,
    *,
    since: int | tuple[int, ...],
    domain: str = ONNX,
    backend: str = "numba",
    blocked: BlockedRule | None = None,
    text: bool = False,
) -> Callable[[_L], _L]:
    """Register a lowering for the schema versions `since` of an operator; see the module's contract.

    Args:
        blocked: `blocked(op, lanes)` says how the node can work on blocked tensors, None if not at all.
            The lowering then meets operands with a `layout`.
        text: whether it may meet inputs that are strings (contract rule 8).
    """
    versions = (since,) if isinstance(since, int) else since

    def register(emit: _L) -> _L:
        made = Lowering(domain, op_type, versions, emit, blocked, text)
        entry = _tables.setdefault(backend, {}).setdefault((domain, op_type), {})
        for version in versions:
            if version in entry:
                raise ValueError(f"{op_type}-{version} is lowered twice for {backend}")
            entry[version] = made
        return emit

    return register


def load_lowerings(backend: str) -> None:
    """Import the kernel set `backend`, which registers its lowerings.

    Raises:
        BackendError: there is no such backend.
    """
    if backend not in ACCELERATED:
        raise BackendError(
            f"there is no backend {backend!r}; choose from {', '.join(('numpy', *ACCELERATED))}"
        )
    importlib.import_module(f"onnxref.kernels.{backend}")


def blocked_layout(backend: str) -> Callable[[Pad], Blocked]:
    """Return what makes the layout that a backend's convolutions want, with a border."""
    return (lambda _: ChannelsLast()) if backend == "cupy" else partial(Blocked, target().lanes)


def find_lowering(backend: str, domain: str, op_type: str, since: int) -> Lowering | None:
    """Return the lowering of the schema version `since` of an operator, None where there is none."""
    return _tables.get(backend, {}).get((domain, op_type), {}).get(since)


def lowerings(backend: str) -> Iterator[tuple[int, Lowering]]:
    """Yield every (schema version, lowering) of a backend."""
    for entry in _tables.get(backend, {}).values():
        yield from entry.items()


def float_bits(value: float) -> int:
    """Return a float as the int64 with its float64 bits, as calls carry it."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def aligned(array: Array) -> Array:
    """Return a C-contiguous copy of an array, beginning at a cache line."""
    goal = aligned_empty(array.shape, array.dtype)
    goal[...] = array
    return goal


def aligned_empty(shape: Sequence[int], dtype: DType) -> Array:
    """Return an uninitialised array that begins at a cache line."""
    nbytes = math.prod(shape) * dtype.itemsize
    raw = np.empty(nbytes + LINE, np.uint8)
    start = -raw.__array_interface__["data"][0] % LINE
    return raw[start : start + nbytes].view(dtype).reshape(tuple(shape))
