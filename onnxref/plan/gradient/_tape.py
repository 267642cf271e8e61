"""A tape of nodes that make up a derivative, written as arithmetic on `Term`s.

    y = (-x).apply("Exp") * 2.0        # four nodes: Neg, Exp, a constant in the type of x, Mul

Nodes carry the opset that they mean, so those of a tape are of one modern opset, whatever the
model around them imports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from ...graph import Node, names_used
from ...limits import Budget
from ...registry import INTERNAL

OPSET = 28

Operand: TypeAlias = "Term | float"


class Tape:
    """Collects nodes whose outputs have names that occur nowhere else.

    Args:
        prefix: what the new names begin with.
        is_taken: whether a name is in use already.
        budget: counts the nodes.

    Attributes:
        replaced: nodes that list more outputs now, by what they were.
    """

    def __init__(self, prefix: str, is_taken: Callable[[str], bool], budget: Budget) -> None:
        self.nodes: list[Node] = []
        self.replaced: dict[Node, Node] = {}
        self.budget = budget
        self._prefix = prefix
        self._is_taken = is_taken
        self._counter = 0

    def fresh(self, hint: str) -> str:
        """Return a new name."""
        while True:
            self._counter += 1
            name = f"{self._prefix}/{hint}_{self._counter}"
            if not self._is_taken(name):
                return name

    def add(self, node: Node) -> None:
        """Append a node.

        Raises:
            ResourceLimitError: there are more nodes than the limits allow.
        """
        self.budget.add_node()
        self.nodes.append(node)

    def term(self, name: str) -> Term | None:
        """Return an existing value as a term, None for the empty name."""
        return Term(self, name) if name else None

    def emit(self, op_type: str, *inputs: Term | None, **attributes: Any) -> Term:
        """Append a node with one output."""
        return self.emit_many(1, op_type, *inputs, **attributes)[0]

    def emit_many(
        self,
        n_outputs: int,
        op_type: str,
        *inputs: Term | None,
        domain: str = "",
        opset: int = OPSET,
        **attributes: Any,
    ) -> tuple[Term, ...]:
        """Append a node; attributes that are None are left out."""
        outputs = tuple(self.fresh(op_type) for _ in range(n_outputs))
        given = {name: value for name, value in attributes.items() if value is not None}
        names = tuple("" if x is None else x.name for x in inputs)
        name = outputs[0]
        self.add(Node(op_type, names, outputs, given, domain, name, opset=opset))
        return tuple(Term(self, output) for output in outputs)

    def internal(self, op_type: str, *inputs: Term | None, opset: int = 1, **attributes: Any) -> Term:
        """Append a node of the internal domain with one output."""
        return self.emit(op_type, *inputs, domain=INTERNAL, opset=opset, **attributes)

    def ints(self, values: Iterable[int]) -> Term:
        """Return a constant int64 vector."""
        return self.emit("Constant", value=np.array(list(values), np.int64))

    def where(self, condition: Term, x: Operand, y: Operand) -> Term:
        """Choose element by element; at least one of the choices is a term, whose type numbers take."""
        like = x if isinstance(x, Term) else y
        if not isinstance(like, Term):
            raise TypeError("where needs a term among its choices")
        return self.emit("Where", condition, like.coerce(x), like.coerce(y))

    def output_of(self, node: Node, index: int) -> Term:
        """Return an output of a node, which gets it by a fresh name where it does not list it."""
        now = self.replaced.get(node, node)
        outputs = list(now.outputs) + [""] * (index + 1 - len(now.outputs))
        if not outputs[index]:
            outputs[index] = self.fresh(node.op_type)
            self.replaced[node] = replace(now, outputs=tuple(outputs))
        return Term(self, outputs[index])

    def keep_only(self, wanted: Iterable[str]) -> None:
        """Drop the nodes that none of the wanted values depends on."""
        needed = set(wanted)
        kept = []
        for node in reversed(self.nodes):
            node = self.replaced.get(node, node)
            if needed.intersection(node.outputs) - {""}:
                kept.append(node)
                needed |= names_used(node)
        self.nodes = kept[::-1]


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """A value on a tape, with the arithmetic of tensors; a number takes the type of the term beside it."""

    tape: Tape
    name: str

    def apply(self, op_type: str, *inputs: Term | None, **attributes: Any) -> Term:
        """Return the operator's result for this value and what follows it."""
        return self.tape.emit(op_type, self, *inputs, **attributes)

    def internal(self, op_type: str, *inputs: Term | None, **attributes: Any) -> Term:
        """Return the internal operator's result for this value and what follows it."""
        return self.tape.internal(op_type, self, *inputs, **attributes)

    def coerce(self, value: Operand) -> Term:
        """Return a number as a scalar of this value's type, a term as it is."""
        if isinstance(value, Term):
            return value
        constant = self.tape.emit("Constant", value=np.array(value, np.float64))
        return constant.apply("CastLike", self)

    def __add__(self, other: Operand) -> Term:
        return self.apply("Add", self.coerce(other))

    def __sub__(self, other: Operand) -> Term:
        return self.apply("Sub", self.coerce(other))

    def __mul__(self, other: Operand) -> Term:
        return self.apply("Mul", self.coerce(other))

    def __truediv__(self, other: Operand) -> Term:
        return self.apply("Div", self.coerce(other))

    def __radd__(self, other: float) -> Term:
        return self.coerce(other) + self

    def __rsub__(self, other: float) -> Term:
        return self.coerce(other) - self

    def __rmul__(self, other: float) -> Term:
        return self.coerce(other) * self

    def __rtruediv__(self, other: float) -> Term:
        return self.coerce(other) / self

    def __neg__(self) -> Term:
        return self.apply("Neg")

    def __lt__(self, other: Operand) -> Term:
        return self.apply("Less", self.coerce(other))

    def __gt__(self, other: Operand) -> Term:
        return self.apply("Greater", self.coerce(other))

    def __or__(self, other: Term) -> Term:
        return self.apply("Or", other)

    def equals(self, other: Operand) -> Term:
        """Return where the two are equal."""
        return self.apply("Equal", self.coerce(other))

    @property
    def shape(self) -> Term:
        return self.apply("Shape")

    def reshape(self, shape: Term | Sequence[int]) -> Term:
        """Return the same elements in a shape that is a value, or in a fixed one in which -1 is inferred."""
        if isinstance(shape, Term):
            return self.apply("Reshape", shape, allowzero=1)
        return self.apply("Reshape", self.tape.ints(shape))

    def fit(self, shape: Term) -> Term:
        """Return the sum over what `shape` lacks, repeated along what it has more."""
        return self.internal("FitTo", shape)

    def fit_like(self, other: Term) -> Term:
        """Return the derivative of a broadcast of `other`: sums to its shape."""
        return self.fit(other.shape)

    def filled(self, value: float) -> Term:
        """Return a tensor of one value, in shape and type of this one."""
        return self.coerce(value).apply("Expand", self.shape)

    def sum(self, axes: Sequence[int]) -> Term:
        """Return the sum along axes, kept with size 1."""
        return self.apply("ReduceSum", self.tape.ints(axes), keepdims=1)

    def mean(self, axes: Sequence[int]) -> Term:
        """Return the mean along axes, kept with size 1."""
        return self.apply("ReduceMean", self.tape.ints(axes), keepdims=1)

    def sum_all(self) -> Term:
        """Return the sum of all elements as a scalar."""
        return self.apply("ReduceSum", keepdims=0)
