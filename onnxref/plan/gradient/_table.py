"""Which rule belongs to which operator.

A rule takes a `Call` and returns a gradient for each input, None for zero; trailing ones may be left
out. An operator that is a formula of others has a decomposition instead: it returns terms for the
outputs, which are then differentiated in its place. What a rule emits and nothing uses is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ... import registry
from ...errors import UnsupportedOperatorError
from ...graph import Node
from ._tape import Tape, Term

Gradients = Sequence[Term | None]


@dataclass(frozen=True, slots=True)
class Call:
    """A node of the forward pass, as its rule sees it.

    Attributes:
        grads: gradient of each output; None for outputs that nothing differentiable uses.
    """

    tape: Tape
    node: Node
    inputs: tuple[Term | None, ...]
    outputs: tuple[Term | None, ...]
    grads: tuple[Term | None, ...]

    def __getitem__(self, index: int) -> Term:
        """Return an input that the node must have."""
        found = self.get(index)
        if found is None:
            raise self.unsupported(f"its input {index} is absent")
        return found

    def get(self, index: int) -> Term | None:
        """Return an input, None where it is absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def x(self) -> Term:
        """The first input."""
        return self[0]

    @property
    def y(self) -> Term:
        """The first output."""
        return self.tape.output_of(self.node, 0)

    @property
    def grad(self) -> Term:
        """The gradient of the first output, zeros where nothing uses it."""
        return self.grads[0] or self.y.filled(0.0)

    @property
    def version(self) -> int:
        return self.node.opset

    def attribute(self, name: str) -> Any:
        """Return an attribute's value, by default that of the operator's version."""
        if name in self.node.attributes:
            return self.node.attributes[name]
        operator = registry.find(self.node.domain, self.node.op_type, self.node.opset)
        parameter = operator.attributes.get(name)
        return None if parameter is None else parameter.default

    def unsupported(self, why: str) -> UnsupportedOperatorError:
        """Return the error that says why the node has no derivative here."""
        return UnsupportedOperatorError(f"{self.node} cannot be differentiated: {why}")


@dataclass(frozen=True, slots=True)
class Rule:
    """How gradients pass a node.

    Attributes:
        of: indices of the inputs that the outputs depend on differentiably; None for all of them.
    """

    function: Callable[[Call], Gradients]
    of: tuple[int, ...] | None
    is_decomposition: bool = False


_rules: dict[tuple[str, str], Rule] = {}
_F = TypeVar("_F", bound=Callable[[Call], Gradients])

# Piecewise constant, integer or random: the derivative is zero wherever there is one.
_STOPPING = """
    And ArgMax ArgMin Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Constant
    ConstantOfShape ConvInteger Equal EyeLike Floor Greater GreaterOrEqual Hardmax IsInf IsNaN Less
    LessOrEqual MatMulInteger Multinomial NonMaxSuppression NonZero Not Or QuantizeLinear RandomNormal
    RandomNormalLike RandomUniform RandomUniformLike Round Shape Sign Size StringConcat StringNormalizer
    StringSplit Xor
"""
STOPPING = frozenset(_STOPPING.split())


def rule(*op_types: str, of: tuple[int, ...] | None = None, domain: str = "") -> Callable[[_F], _F]:
    """Register the rule of some operators, for all their versions."""

    def register(function: _F) -> _F:
        for op_type in op_types:
            _rules[domain, op_type] = Rule(function, of)
        return function

    return register


def decomposition(*op_types: str, of: tuple[int, ...] | None = None, domain: str = "") -> Callable[[_F], _F]:
    """Register the formula of some operators in terms of others, for all their versions."""

    def register(function: _F) -> _F:
        for op_type in op_types:
            _rules[domain, op_type] = Rule(function, of, is_decomposition=True)
        return function

    return register


def find_rule(node: Node) -> Rule | None:
    """Return the rule of a node's operator, None where there is none."""
    return _rules.get((node.domain, node.op_type))
