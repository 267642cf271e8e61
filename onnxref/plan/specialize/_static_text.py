"""Rules of `_static` for pipelines on text: what lies between strings and strings becomes numbers.

1. A Tokenizer whose tokens one TfIdfVectorizer alone reads: how many tokens the longest text has decides
   the shape of the tokens, but not that of what is counted. Both become one `TokenizedTfIdf`, together with
   the StringNormalizer (without stop words) before them, and what flattens the texts or the tokens.
2. A classifier whose labels are strings gives numbers of labels, so that a region can hold it, and
   `LabelNames` makes strings of them. That, and what reads these strings, comes after all the rest.

No step of the user's own is touched, and no value that something else reads, or the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import registry
from ...registry import INTERNAL, MICROSOFT, ML
from .._steps import NO_SLOT, Step

if TYPE_CHECKING:
    from ._static import Rewriting

_CLASSIFIERS = {
    "LinearClassifier": "classlabels_ints",
    "SVMClassifier": "classlabels_ints",
    "TreeEnsembleClassifier": "classlabels_int64s",
}


def join_text_steps(rewriting: Rewriting, steps: list[Step]) -> list[Step]:
    """Apply rule 1."""
    found: dict[int, Step] = {}
    gone: set[int] = set()
    links = _Links(rewriting, steps)
    for index, step in enumerate(steps):
        if _is(step, "TfIdfVectorizer"):
            chain = _chain(links, step)
            if chain is not None:
                found[index] = _joined(rewriting, chain)
                gone.update(id(part) for part in chain.steps)
    if not found:
        return steps
    kept = ((found.get(index), step) for index, step in enumerate(steps))
    return [new or step for new, step in kept if new is not None or id(step) not in gone]


def name_labels_last(rewriting: Rewriting, steps: list[Step]) -> list[Step]:
    """Apply rule 2."""
    if not any(map(_has_names, steps)):
        return steps
    done: list[Step] = []
    late: list[Step] = []
    named: dict[int, Step] = {}  # by the slot of the names
    late_slots: set[int] = set()
    for step in steps:
        found: list[Step] = []
        if late_slots.intersection(_reads(step)):
            found = [_renamed(named, step)]
        elif _has_names(step):
            done.append(_numbered(rewriting, step))
            if step.outputs[0] != NO_SLOT:
                found = [_named(rewriting, done[-1], step.outputs[0])]
        else:
            done.append(step)
        late += found
        late_slots.update(slot for own in found for slot in own.outputs if slot)
        named.update((own.outputs[0], own) for own in found if gives_names(own))
    wanted = {slot for step in late for slot in _reads(step)} | set(rewriting.plan.output_slots)
    return done + [step for step in late if not gives_names(step) or step.outputs[0] in wanted]


def gives_names(step: Step) -> bool:
    """Whether a step makes names of numbers of labels."""
    return step.node.op_type == "LabelNames" and step.node.domain == INTERNAL


def is_afterthought(step: Step) -> bool:
    """Whether a step makes Python objects of numbers, and cannot fail for the values of these."""
    is_map = step.node.op_type == "ZipMap" and step.node.domain == ML and not step.user_defined
    return is_map or gives_names(step)


class _Links:
    """Who makes and who reads each slot."""

    def __init__(self, rewriting: Rewriting, steps: Sequence[Step]) -> None:
        self._plan = rewriting.plan
        self.makers = {slot: step for step in steps for slot in step.outputs if slot}
        self._reads: dict[int, int] = {}
        for slot in (*(slot for step in steps for slot in _reads(step)), *rewriting.plan.output_slots):
            self._reads[slot] = self._reads.get(slot, 0) + 1

    def before(self, step: Step) -> Step | None:
        """Return what makes a step's first input, if nothing but the step reads it."""
        slot = step.inputs[0]
        maker = self.makers.get(slot)
        return maker if maker is not None and self._reads[slot] == 1 else None

    def constant(self, slot: int) -> Any:
        """Return the value that a slot has in every run, None where there is none."""
        return None if slot in self._plan.input_slots else self._plan.template[slot]


class _Chain:
    """The steps of rule 1, the first one first."""

    def __init__(self, steps: list[Step], attributes: dict[str, Any], tokenizer: Step) -> None:
        self.steps = steps
        self.attributes = attributes
        self.tokenizer = tokenizer


def _chain(links: _Links, vectorizer: Step) -> _Chain | None:
    """Return what a TfIdfVectorizer belongs to by rule 1."""
    steps = [vectorizer]
    before = links.before(vectorizer)
    flattened = before is not None and _is(before, "Flatten") and before.node.attributes.get("axis", 1) == 1
    if before is not None and flattened:
        steps.append(before)
        before = links.before(before)
    if before is None or not _is(before, "Tokenizer", MICROSOFT):
        return None
    if not vectorizer.node.attributes.get("pool_strings"):
        return None  # it is going to refuse strings
    tokenizer = before
    steps.append(tokenizer)
    normalizer = links.before(tokenizer)
    if normalizer is not None and _is_plain_normalizer(normalizer):
        steps.append(normalizer)
    else:
        normalizer = None
    before = links.before(steps[-1])
    flat = before is not None and _flattens(before, links)
    if before is not None and flat:
        steps.append(before)
    attributes = {
        "flat": int(flat),
        "normalizer": None if normalizer is None else normalizer.node.attributes,
        "tokenizer": tokenizer.node.attributes,
        "flattened": int(flattened),
        "vectorizer": vectorizer.node.attributes,
        "labels": tuple(str(step.node) for step in (normalizer or tokenizer, tokenizer, vectorizer)),
    }
    return _Chain(steps[::-1], attributes, tokenizer)


def _joined(rewriting: Rewriting, chain: _Chain) -> Step:
    first, last = chain.steps[0], chain.steps[-1]
    rule = chain.tokenizer.type_rule
    made = rewriting.step(
        "TokenizedTfIdf", chain.tokenizer, first.inputs[:1], last.outputs, chain.attributes, rule
    )
    return replace(made, stands_for=tuple(step.node for step in chain.steps))


def _is(step: Step, op_type: str, domain: str = "") -> bool:
    return step.node.op_type == op_type and step.node.domain == domain and not step.user_defined


def _is_plain_normalizer(step: Step) -> bool:
    """Whether a step changes the case of strings and nothing else."""
    return _is(step, "StringNormalizer") and not step.node.attributes.get("stopwords")


def _flattens(step: Step, links: _Links) -> bool:
    """Whether a step makes one dimension of all."""
    shape = links.constant(step.inputs[1]) if _is(step, "Reshape") and len(step.inputs) > 1 else None
    return isinstance(shape, np.ndarray) and shape.tolist() == [-1]


def _reads(step: Step) -> list[int]:
    """Return the slots that a step reads, its bodies included."""
    captured = (outer for body in step.bodies.values() for outer, _ in body.captures)
    return [slot for slot in (*step.inputs, *captured) if slot != NO_SLOT]


def _has_names(step: Step) -> bool:
    """Whether a step is a classifier whose labels are strings."""
    known = step.node.domain == ML and step.node.op_type in _CLASSIFIERS and not step.user_defined
    return known and bool(step.node.attributes.get("classlabels_strings"))


def _numbered(rewriting: Rewriting, step: Step) -> Step:
    """Return a classifier that gives numbers of labels, in a slot of their own where they are wanted."""
    node = step.node
    count = len(node.attributes["classlabels_strings"])
    attributes = {name: value for name, value in node.attributes.items() if name != "classlabels_strings"}
    attributes[_CLASSIFIERS[node.op_type]] = tuple(range(count))
    prepare = registry.find(node.domain, node.op_type, node.opset).prepare
    numbers = NO_SLOT if step.outputs[0] == NO_SLOT else rewriting.new_slot()
    return replace(
        step,
        node=replace(node, attributes=attributes),
        arguments={"prepared": prepare(**attributes)} if prepare else attributes,
        cost_arguments=attributes,
        outputs=(numbers, *step.outputs[1:]),
        stands_for=(node,),
    )


def _named(rewriting: Rewriting, classifier: Step, output: int) -> Step:
    """Return the step that makes names of the numbers of labels that a classifier gives."""
    names = {"names": classifier.stands_for[0].attributes["classlabels_strings"]}
    return rewriting.step("LabelNames", classifier, classifier.outputs[:1], (output,), names, None)


def _renamed(named: Mapping[int, Step], step: Step) -> Step:
    """Return what gives names themselves in the place of their Identity; other steps as they are."""
    source = named.get(step.inputs[0]) if _is(step, "Identity") else None
    if source is None:
        return step
    return replace(source, outputs=step.outputs, stands_for=(*source.stands_for, *step.nodes))
