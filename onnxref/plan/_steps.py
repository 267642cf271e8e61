"""The plan's data: what the executor walks through."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph import Node, ValueType
from ..registry import Cost
from ._types import TypeRule

if TYPE_CHECKING:
    from .specialize import Regions

# Slot 0 always holds None: absent optional inputs read it, unwanted outputs are not written.
NO_SLOT = 0


def read_only(value: Any) -> Any:
    """Return a read-only view of an array: a kernel that wrote into it would fail instead of spoiling it."""
    if not isinstance(value, np.ndarray) or not value.flags.writeable:
        return value
    view = value.view()
    view.flags.writeable = False
    return view


@dataclass(slots=True)
class Step:
    """One kernel call.

    Attributes:
        inputs: slots to read; `NO_SLOT` for an absent optional input.
        outputs: slots to write; `NO_SLOT` for outputs that nothing uses.
        frees: slots whose value is not needed after this step.
        bodies: subgraph attributes by name.
        type_rule: None where no schema constrains the inputs.
        user_defined: the kernel is one that the caller registered.
        deferred: its inputs are constants, but whether its outputs become some is left to the passes.
        stands_for: nodes of the model that it does the work of, where its own is none of them.
    """

    node: Node
    kernel: Callable[..., Any]
    arguments: Mapping[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    takes_context: bool = False
    cost: Callable[..., Cost] | None = None
    cost_arguments: Mapping[str, Any] = field(default_factory=dict)
    bodies: Mapping[str, Plan] = field(default_factory=dict)
    type_rule: TypeRule | None = None
    user_defined: bool = False
    deferred: bool = False
    frees: tuple[int, ...] = ()
    stands_for: tuple[Node, ...] = ()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The model's nodes that it does the work of."""
        return self.stands_for or (self.node,)

    @property
    def title(self) -> str:
        """What errors call it: the model's nodes that it does the work of."""
        return " with ".join(map(str, self.nodes))

    @property
    def wanted(self) -> tuple[bool, ...]:
        """For each output, whether anything uses it."""
        return tuple(slot != NO_SLOT for slot in self.outputs)


@dataclass(slots=True)
class Plan:
    """Steps in order, over a frame of slots.

    Attributes:
        template: the frame before a run: constants in their slots, None elsewhere.
        input_slots: where the caller's inputs go, in graph order.
        output_slots: where the results are.
        captures: (slot in the surrounding frame, slot here) of outer values that a subgraph uses.
        constant_memory: identities of the arrays that the constants look into, those of bodies included.
        regions: pieces specialised for input shapes; None where every step runs by itself.
    """

    name: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    output_types: tuple[ValueType | None, ...]
    input_slots: tuple[int, ...]
    output_slots: tuple[int, ...]
    captures: tuple[tuple[int, int], ...]
    template: list[Any]
    constant_memory: frozenset[int]
    steps: list[Step]
    regions: Regions | None = None


def free_at_last_use(steps: Sequence[Step], keep: Collection[int]) -> list[tuple[int, ...]]:
    """Return for each step the slots that nothing after it reads, but for those to keep."""
    kept = set(keep)
    frees: list[tuple[int, ...]] = []
    for step in reversed(steps):
        touched = {*step.inputs, *step.outputs}
        for body in step.bodies.values():
            touched.update(outer for outer, _ in body.captures)
        frees.append(tuple(sorted(touched - kept)))
        kept |= touched
    return frees[::-1]
