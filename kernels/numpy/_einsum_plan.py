"""What an Einsum equation means for given shapes, and in which order to contract its operands.

Pure bookkeeping in Python ints and strings: nothing is computed or allocated here. Operands are
simplified first (diagonals, sums over indices that nothing else uses), then contracted in pairs.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from onnxref.errors import KernelError

Shape = tuple[int, ...]
Labels = tuple[str, ...]

_MAX_INDICES = 64  # the dimensions of a NumPy array
_TERM = re.compile(r"([A-Za-z]*)(\.\.\.)?([A-Za-z]*)", re.ASCII)

# Pairs are sought among this many operands at most: keeps the planning of a long list cheap.
_WINDOW = 16


class Contraction(NamedTuple):
    """Contract operands `i` < `j` into one, which goes to the end of the list."""

    i: int
    j: int
    result: frozenset[str]


class EinsumPlan(NamedTuple):
    """An equation that was found to fit its operands.

    Attributes:
        inputs: name of each axis of each operand: a letter, or "...0", "...1" for those of the ellipsis.
        output: name of each axis of the output.
        sizes: size of each index; operands of size 1 broadcast along it.
        kept: indices that each operand has after it was simplified; none of size 1 is among them.
        steps: contractions that leave one operand.
    """

    inputs: list[Labels]
    output: Labels
    sizes: dict[str, int]
    kept: list[frozenset[str]]
    steps: list[Contraction]

    def volume(self, labels: frozenset[str]) -> int:
        """Return the number of elements of an operand with these indices."""
        return math.prod(self.sizes[label] for label in labels)


@functools.lru_cache(maxsize=256)
def plan_einsum(equation: str, shapes: tuple[Shape, ...]) -> EinsumPlan:
    """Parse an equation, check it against the shapes and choose the contractions.

    Raises:
        KernelError: the equation is malformed or does not fit the shapes.
    """
    inputs, output = _parse(equation, shapes)
    sizes = _index_sizes(inputs, shapes)
    kept = _kept_labels(inputs, output, shapes)
    plan = EinsumPlan(inputs, output, sizes, kept, [])
    plan.steps.extend(_choose_steps(plan))
    return plan


def _parse(equation: str, shapes: Sequence[Shape]) -> tuple[list[Labels], Labels]:
    """Return the axis names of each operand and of the output."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise KernelError(f"equation must have {len(shapes)} terms, one per input (got {equation!r})")
    dims = {len(s) - (len(t) - 3) for t, s in zip(terms, shapes, strict=True) if "..." in t}
    if len(dims) > 1 or min(dims, default=0) < 0:
        raise KernelError(
            f"'...' must stand for one number of dimensions (got {equation!r} for shapes {list(shapes)})"
        )
    ellipsis = tuple(f"...{i}" for i in range(max(dims, default=0)))
    inputs = [_parse_term(term, equation, ellipsis) for term in terms]
    for term, labels, shape in zip(terms, inputs, shapes, strict=True):
        if len(labels) != len(shape):
            raise KernelError(
                f"term {term!r} of the equation must have {len(shape)} indices (got {equation!r})"
            )
    used = list(itertools.chain.from_iterable(inputs))
    if not arrow:
        once = sorted(label for label in set(used) - set(ellipsis) if used.count(label) == 1)
        return inputs, (*ellipsis, *once)
    output = _parse_term(right, equation, ellipsis)
    if len(set(output)) != len(output) or not set(output) <= set(used):
        raise KernelError(f"output indices must be distinct and occur in the inputs (got {equation!r})")
    return inputs, output


def _parse_term(term: str, equation: str, ellipsis: Labels) -> Labels:
    match = _TERM.fullmatch(term)
    if match is None:
        raise KernelError(f"equation must consist of letters, '...', ',' and '->' (got {equation!r})")
    return (*match[1], *(ellipsis if match[2] else ()), *match[3])


def _index_sizes(inputs: Sequence[Labels], shapes: Sequence[Shape]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for labels, shape in zip(inputs, shapes, strict=True):
        own: dict[str, int] = {}
        for label, size in zip(labels, shape, strict=True):
            # Size 1 broadcasts between operands, but not along the diagonal of one operand.
            if own.setdefault(label, size) != size or (size != 1 and sizes.get(label, 1) not in (1, size)):
                raise KernelError(f"index {label!r} must have one size (got input shapes {list(shapes)})")
            if size != 1 or label not in sizes:
                sizes[label] = size
    if len(sizes) > _MAX_INDICES:
        raise KernelError(f"equation must have at most {_MAX_INDICES} indices (got {len(sizes)})")
    return sizes


def _kept_labels(inputs: Sequence[Labels], output: Labels, shapes: Sequence[Shape]) -> list[frozenset[str]]:
    found = [
        frozenset(label for label, size in zip(labels, shape, strict=True) if size != 1)
        for labels, shape in zip(inputs, shapes, strict=True)
    ]
    uses = {label: sum(label in own for own in found) for label in frozenset().union(*found)}
    return [frozenset(label for label in own if uses[label] > 1 or label in output) for own in found]


def _choose_steps(plan: EinsumPlan) -> list[Contraction]:
    """Choose pairs to contract, each time the one whose result grows the least."""
    live = list(plan.kept)
    uses = {label: sum(label in own for own in live) + (label in plan.output) for label in plan.sizes}

    def contract(i: int, j: int) -> Contraction:
        summed = {label for label in live[i] & live[j] if uses[label] == 2}
        return Contraction(i, j, (live[i] | live[j]) - summed)

    def growth(step: Contraction) -> int:
        return plan.volume(step.result) - plan.volume(live[step.i]) - plan.volume(live[step.j])

    steps = []
    while len(live) > 1:
        window = range(min(len(live), _WINDOW))
        step = min((contract(i, j) for i, j in itertools.combinations(window, 2)), key=growth)
        for label in live[step.i] & live[step.j]:
            uses[label] -= 1
        del live[step.j], live[step.i]
        live.append(step.result)
        steps.append(step)
    return steps
