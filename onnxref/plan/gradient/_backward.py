"""The walk from the gradients of outputs back to those of inputs.

Rules
    1. A value is active if it depends on a target in a way that has a derivative. Only active values
       get gradients; nodes without a rule are met only if an active value goes through them.
    2. Gradients that reach a value on several ways are added.
    3. A decomposition, or a call of a model-local function, is written out and walked in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ... import registry
from ...dtypes import ElementType
from ...errors import UnsupportedOperatorError
from ...graph import Function, FunctionKey, Node, names_used, subgraphs
from ...registry import INTERNAL
from ._inline import inline
from ._table import STOPPING, Call, Gradients, find_rule
from ._tape import Tape, Term

Functions = Mapping[FunctionKey, Function]

_REAL = frozenset(e for e in ElementType if e.name.startswith(("FLOAT", "DOUBLE", "BFLOAT")))
# Inputs of control flow that decide what is computed, not from what.
_DECIDING = {"If": (0,), "Loop": (0, 1)}


def backpropagate(
    tape: Tape, nodes: Sequence[Node], seeds: Mapping[str, Term], targets: Iterable[str], functions: Functions
) -> dict[str, Term]:
    """Return the gradient of each target that the seeded values depend on.

    Args:
        nodes: the nodes between targets and seeded values, in topological order.
        seeds: gradients by the names of the values that they belong to.

    Raises:
        UnsupportedOperatorError: a node on the way has no known derivative.
    """
    active = set(targets)
    for node in nodes:
        if _passes(node, active, functions):
            active.update(name for name in node.outputs if name)
    grads = {name: grad for name, grad in seeds.items() if name in active}
    for node in reversed(nodes):
        of_outputs = tuple(grads.get(name) for name in node.outputs)
        if any(of_outputs) and _passes(node, active, functions):
            for name, grad in zip(node.inputs, _pull(tape, node, of_outputs, functions), strict=False):
                if grad is not None and name in active:
                    grads[name] = grads[name] + grad if name in grads else grad  # rule 2
    return grads


def _passes(node: Node, active: set[str], functions: Functions) -> bool:
    """Return whether the node's outputs are active (rule 1)."""
    if (node.domain, node.op_type, node.overload) in functions:
        return not active.isdisjoint(node.inputs)
    if node.domain == "" and node.op_type in STOPPING:
        return False
    if node.domain == "" and node.op_type == "Cast" and node.attributes.get("to") not in _REAL:
        return False
    found = find_rule(node)
    if found is None:
        return node.domain != INTERNAL and not active.isdisjoint(_sources(node))
    if found.of is None:
        return not active.isdisjoint(node.inputs)
    return any(i < len(node.inputs) and node.inputs[i] in active for i in found.of)


def _sources(node: Node) -> set[str]:
    if node.domain or not subgraphs(node):
        return names_used(node)
    deciding = _DECIDING.get(node.op_type, ())
    given = {name for i, name in enumerate(node.inputs) if i not in deciding}
    return given | (names_used(node) - set(node.inputs))


def _pull(tape: Tape, node: Node, grads: tuple[Term | None, ...], functions: Functions) -> Gradients:
    """Return the gradients of the node's inputs from those of its outputs."""
    call = Call(
        tape,
        node,
        tuple(tape.term(name) for name in node.inputs),
        tuple(tape.term(name) for name in node.outputs),
        grads,
    )
    function = functions.get((node.domain, node.op_type, node.overload))
    first = len(tape.nodes)
    if function is not None:
        return _pull_through(call, first, inline(tape, node, function, functions), functions)
    found = find_rule(node)
    if found is None or _is_user_defined(node):
        raise UnsupportedOperatorError(f"{node} cannot be differentiated: its derivative is not known")
    result = found.function(call)
    return _pull_through(call, first, result, functions) if found.is_decomposition else result


def _is_user_defined(node: Node) -> bool:
    """Whether a function that a user registered takes the place of the operator."""
    return registry.find(node.domain, node.op_type, node.opset).user_defined


def _pull_through(call: Call, first: int, outputs: Gradients, functions: Functions) -> Gradients:
    """Differentiate what stands on the tape from node `first` on in place of the call (rule 3)."""
    tape = call.tape
    seeds: dict[str, Term] = {}
    for output, grad in zip(outputs, call.grads, strict=False):
        if output is not None and grad is not None:
            seeds[output.name] = seeds[output.name] + grad if output.name in seeds else grad
    nodes = tape.nodes[first:]
    grads = backpropagate(tape, nodes, seeds, {name for name in call.node.inputs if name}, functions)
    # An input that is listed twice gets its gradient once.
    return [grads.pop(name, None) for name in call.node.inputs]
