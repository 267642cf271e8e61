"""Finds small subgraphs in a block and rewrites them: what the recognising passes are written with.

    X = Value("x")
    SILU = Pattern("Mul", X, Pattern("Sigmoid", X))

    graph = graph_of(block)
    for op in graph:
        found = graph.match(SILU, op)
        if found:
            graph.replace(found.ops, Op("Swish", [found["x"]], op.outputs, opset=24))
    return graph.commit()

A pattern matches only where nothing but the pattern itself reads the values between its ops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from ...graph import Node
from ...lowering import Op, Operand, PackCache
from ...registry import ONNX
from ._block import Block

COMMUTATIVE = frozenset({"Add", "Mul"})
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))  # types whose roundings a rewrite may move


@dataclass(frozen=True, slots=True)
class Value:
    """Matches any operand; all places of one name must be the same operand.

    Attributes:
        where: what else must hold for it.
    """

    name: str
    where: Callable[[Operand], bool] | None = None


@dataclass(frozen=True, slots=True, init=False)
class Pattern:
    """Matches the first output of an op whose inputs match `inputs`; a float matches a scalar constant.

    Two inputs of an Add or a Mul match in both orders. Inputs beyond those listed must be absent,
    unless `open`.

    Attributes:
        op_type: one name, or several with `|` between them.
        where: what else must hold for the op.
        name: to find the op again in the `Match`.
        open: whether there may be more inputs than those listed.
    """

    op_type: str
    inputs: tuple[Term, ...]
    where: Callable[[Op], bool] | None
    name: str
    open: bool
    op_types: frozenset[str]
    needs: tuple[frozenset[str], ...]

    def __init__(
        self,
        op_type: str,
        *inputs: Term,
        where: Callable[[Op], bool] | None = None,
        name: str = "",
        open: bool = False,
    ) -> None:
        for key, value in (
            ("op_type", op_type),
            ("inputs", inputs),
            ("where", where),
            ("name", name),
            ("open", open),
            ("op_types", frozenset(op_type.split("|"))),
            ("needs", tuple(found for term in inputs if (found := _types_of(term)))),
        ):
            object.__setattr__(self, key, value)


@dataclass(frozen=True, slots=True)
class Either:
    """Matches what any of its terms does, the first that fits."""

    terms: tuple[Term, ...]


Term: TypeAlias = "Pattern | Value | Either | float"


def _types_of(term: Term) -> frozenset[str]:
    """Return the operators one of which makes what a term matches; none where it may be any value."""
    if isinstance(term, Pattern):
        return term.op_types
    found = [_types_of(each) for each in term.terms] if isinstance(term, Either) else []
    return frozenset().union(*found) if all(found) else frozenset()


@dataclass(slots=True)
class Match:
    """Where a pattern was found.

    Attributes:
        ops: the ops of the pattern, in the order of the block.
        values: operands by the names of their `Value`s.
        named: ops by the names of their `Pattern`s.
    """

    ops: list[Op] = field(default_factory=list)
    values: dict[str, Operand] = field(default_factory=dict)
    named: dict[str, Op] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Operand:
        return self.values[name]


def graph_of(block: Block) -> Graph:
    """Return the block's graph, the one that an earlier pass has made if it is still right."""
    graph: Graph = block.index or Graph(block)
    graph.rewrites = 0
    block.index = None  # until `commit`: a pass that fails leaves no half-done index
    return graph


class Graph:
    """A block with an index of producers and readers that stays right while ops are replaced.

    Iterating gives the ops in order and meets the ones that were put in behind the present place.
    Call `commit` at the end: until then the block itself is unchanged.
    """

    def __init__(self, block: Block) -> None:
        self.block = block
        self.rewrites = 0
        self._slots = [[op] for op in block.ops]
        self._at = {op: i for i, op in enumerate(block.ops)}
        self._producer = block.producers()
        self._readers = block.uses()
        self._results = set(block.outputs)

    def __iter__(self) -> Iterator[Op]:
        for slot in self._slots:
            if slot:
                yield from tuple(slot)

    # --- questions ---

    def producer(self, operand: Operand | None) -> Op | None:
        """Return the op that makes an operand; None for inputs and constants."""
        return self._producer.get(operand) if operand is not None else None

    def readers(self, operand: Operand) -> Sequence[Op]:
        """Return the ops that read an operand, once per input that is it."""
        return self._readers.get(operand, ())

    def is_result(self, operand: Operand) -> bool:
        return operand in self._results

    def sole_reader(self, operand: Operand | None) -> Op | None:
        """Return the one op that reads an operand, where it reads it once and nobody else does."""
        if operand is None or operand in self._results:
            return None
        readers = self._readers.get(operand, ())
        return readers[0] if len(readers) == 1 else None

    def position(self, op: Op) -> int:
        """Return a number that grows along the block."""
        return self._at[op]

    def is_ready_before(self, operand: Operand, op: Op) -> bool:
        """Whether an operand has its value before `op` runs."""
        maker = self._producer.get(operand)
        return maker is None or self._at[maker] < self._at[op]

    def match(self, pattern: Pattern, op: Op) -> Match | None:
        """Return how `pattern` fits the op as its root, None where it does not."""
        if op.op_type not in pattern.op_types:
            return None
        if pattern.needs:
            makers = [self._producer.get(x) for x in op.inputs if x is not None]
            types = {maker.op_type for maker in makers if maker is not None}
            if any(need.isdisjoint(types) for need in pattern.needs):
                return None
        for found in _match_op(pattern, op, Match(), self._producer):
            found.ops.sort(key=self._at.__getitem__)
            if self._is_closed(found.ops, op):
                return found
        return None

    def _is_closed(self, ops: Sequence[Op], root: Op) -> bool:
        for op in ops:
            if op is root:
                continue
            for y in op.outputs:
                if y is None:
                    continue
                if y in self._results or any(reader not in ops for reader in self.readers(y)):
                    return False
        return True

    # --- changes ---

    def replace(self, old: Sequence[Op], *new: Op, at: Op | None = None) -> None:
        """Put `new`, in order, in place of ops whose outputs are its own or read by nobody else.

        Each of `new` gets the nodes of all of them, after those it has.

        Args:
            at: the one of `old` where it goes; by default the last.
        """
        place = self._at[at] if at is not None else max(self._at[op] for op in old)
        slot = self._slots[place]
        behind = 1 + max(i for i, op in enumerate(slot) if (op is at if at is not None else op in old))
        slot[behind:behind] = new
        for op in old:
            self._forget(op)
        for op in new:
            op.nodes = union(op.nodes, *(gone.nodes for gone in old))
            self._at[op] = place
            for y in op.outputs:
                if y is not None:
                    self._producer[y] = op
            for x in op.inputs:
                if x is not None:
                    self._readers.setdefault(x, []).append(op)
        self.rewrites += 1
        self._sweep(old)

    def bypass(self, op: Op, source: Operand) -> bool:
        """Take out an op whose first output equals `source`; False where both must stay."""
        y = op.outputs[0]
        assert y is not None
        maker = self._producer.get(source)
        if y in self._results:
            if maker is None or source in self._results:
                return False
            self._forget(op)
            maker.outputs[:] = [y if x is source else x for x in maker.outputs]
            self._producer[y] = maker
            self._redirect(source, y)
        else:
            self._forget(op)
            self._redirect(y, source)
        heir = maker or next(iter(self.readers(source)), None)
        if heir is not None:
            heir.nodes = union(heir.nodes, op.nodes)
        self.rewrites += 1
        self._sweep([op])
        return True

    def commit(self) -> int:
        """Write the changes to the block; return how many there were."""
        if self.rewrites:
            self.block.set_ops(self)
            self._slots = [[op] for op in self.block.ops]
            self._at = {op: i for i, op in enumerate(self.block.ops)}
        self.block.index = self
        return self.rewrites

    def _redirect(self, old: Operand, new: Operand) -> None:
        readers = self._readers.pop(old, [])
        for reader in readers:
            reader.inputs[:] = [new if x is old else x for x in reader.inputs]
        self._readers.setdefault(new, []).extend(readers)

    def _forget(self, op: Op) -> None:
        self._slots[self._at.pop(op)].remove(op)
        for y in op.outputs:
            if y is not None and self._producer.get(y) is op:
                del self._producer[y]
        for x in op.inputs:
            if x is not None:
                self._readers[x].remove(op)

    def _sweep(self, gone: Iterable[Op]) -> None:
        """Take out what nobody reads any more, behind ops that are gone."""
        pending = [x for op in gone for x in op.inputs]
        while pending:
            maker = self.producer(pending.pop())
            if maker is None:
                continue
            made = [y for y in maker.outputs if y is not None]
            if any(y in self._results or self.readers(y) for y in made):
                continue
            pending += maker.inputs
            self._forget(maker)


def _match_op(pattern: Pattern, op: Op, so_far: Match, producer: dict[Operand, Op]) -> Iterator[Match]:
    if op.domain:
        return
    n = len(pattern.inputs)
    if len(op.inputs) < n or (not pattern.open and any(x is not None for x in op.inputs[n:])):
        return
    if pattern.where is not None and not pattern.where(op):
        return
    ops = so_far.ops if op in so_far.ops else [*so_far.ops, op]
    named = {**so_far.named, pattern.name: op} if pattern.name else so_far.named
    here = Match(ops, so_far.values, named)
    orders = [list(op.inputs[:n])]
    if n == 2 and op.op_type in COMMUTATIVE:
        orders.append(orders[0][::-1])
    for order in orders:
        yield from _match_all(pattern.inputs, order, here, producer)


def _match_all(
    terms: Sequence[Term], operands: Sequence[Operand | None], so_far: Match, producer: dict[Operand, Op]
) -> Iterator[Match]:
    if not terms:
        yield Match(list(so_far.ops), so_far.values, so_far.named)
        return
    for found in _match_term(terms[0], operands[0], so_far, producer):
        yield from _match_all(terms[1:], operands[1:], found, producer)


def _match_term(
    term: Term, operand: Operand | None, so_far: Match, producer: dict[Operand, Op]
) -> Iterator[Match]:
    if operand is None:
        return
    if isinstance(term, Value):
        bound = so_far.values.get(term.name)
        if bound is operand:
            yield so_far
        elif bound is None and (term.where is None or term.where(operand)):
            yield Match(so_far.ops, {**so_far.values, term.name: operand}, so_far.named)
    elif isinstance(term, Pattern):
        maker = producer.get(operand)
        if maker is not None and maker.op_type in term.op_types and maker.outputs[0] is operand:
            yield from _match_op(term, maker, so_far, producer)
    elif isinstance(term, Either):
        for each in term.terms:
            yield from _match_term(each, operand, so_far, producer)
    elif is_scalar(operand, term):
        yield so_far


# --- helpers of the passes -------------------------------------------------------------------------


def union(*nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Return the nodes of all, each once, in order."""
    return tuple({id(node): node for group in nodes for node in group}.values())


def scalar_of(operand: Operand | None) -> float | None:
    """Return the value of a constant of one real element."""
    if operand is None or operand.constant is None or operand.size != 1 or operand.dtype.kind in "OUSc":
        return None
    return float(operand.constant.reshape(-1)[0])


def is_scalar(operand: Operand | None, value: float) -> bool:
    """Whether an operand is a constant of one element that is `value`, to float16's precision or better."""
    found = scalar_of(operand)
    if found is None or operand is None:
        return False
    # Exporters write sqrt(2) as 1.4142 or as 1.41421354; whole numbers and 0.5 are exact.
    return found == value or (value % 0.5 != 0 and abs(found - value) <= 2e-5 * abs(value))


def is_channel_vector(operand: Operand, shape: Sequence[int], axis: int) -> bool:
    """Whether an operand broadcasts to `shape` along all axes but one, and has all of that one."""
    if operand.ndim > len(shape):
        return False
    aligned = (1,) * (len(shape) - operand.ndim) + operand.shape
    axis %= len(shape)
    return all(d == (shape[i] if i == axis else 1) for i, d in enumerate(aligned))


def int_list(op: Op, index: int, attribute: str) -> tuple[int, ...] | None:
    """Return a list that is an attribute in old versions and a constant input in new ones.

    An empty tuple where it is absent; None where it is not known.
    """
    if attribute in op.attributes:
        given = op.attributes[attribute]
        return () if given is None else tuple(int(i) for i in given)
    operand = op.inputs[index] if len(op.inputs) > index else None
    if operand is None:
        return ()
    if operand.constant is None:
        return None
    return tuple(int(i) for i in operand.constant.reshape(-1))


def reduced_axes(op: Op) -> tuple[int, ...] | None:
    """Return the axes that a Reduce op reduces, in order; None where they are not known."""
    axes = int_list(op, 1, "axes")
    data = op.inputs[0]
    if axes is None or data is None:
        return None
    if not axes:
        return () if op.attributes.get("noop_with_empty_axes", 0) else tuple(range(data.ndim))
    return tuple(sorted(axis % data.ndim for axis in axes))


def reshape(x: Operand | None, y: Operand, packs: PackCache, *origin: Op) -> Op:
    """Return a Reshape from `x` to `y` that stands for the ops `origin`."""
    shape = packs.get((), ("shape", y.shape), lambda: np.array(y.shape, np.int64))
    goal = Operand(shape.shape, shape.dtype, f"shape of {y.name}", shape)
    return Op("Reshape", [x, goal], [y], {"allowzero": 1}, ONNX, 14, union(*(op.nodes for op in origin)))
