"""Shape rules against the kernels that they speak for: the official cases, and inputs bent out of shape.

Native code relies on a rule to refuse what the kernel refuses, so each input of each case is tried with every
axis longer, shorter, gone, and with one more axis.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnxref.conformance.cases import decode_data_set
from onnxref.conformance.suites import official
from onnxref.conformance.suites._type_models import cells, is_impossible, make_call

import onnxref
from onnxref import registry, schema
from onnxref.dtypes import Array
from onnxref.plan import Plan, Step
from onnxref.plan.specialize._shapes import shaped_by
from onnxref.registry import Context, ghost

# Their indices are read at run time, where native code reports bad ones: all of them are made 0 here.
_INDEXED = {"Gather": 1, "GatherElements": 1, "GatherND": 1}
# sequence_lens, checked at run time too.
_LENGTHS = {"RNN": 4, "GRU": 4, "LSTM": 4}
# An axis that native code wants to know beforehand.
_KNOWN = {"CumSum": (1,)}


@dataclass(frozen=True)
class Sample:
    """One call of a kernel in an official case."""

    case: str
    step: Step
    inputs: tuple[Any, ...]

    @property
    def rule(self) -> Any:
        node = self.step.node
        since = schema.version_in_force(node.domain, node.op_type, node.opset)
        return registry.find_shape_rule(node.domain, node.op_type, since)

    def arguments(self) -> dict[str, Any]:
        extra = (
            {"ctx": Context(self.step.wanted, opset=self.step.node.opset)} if self.step.takes_context else {}
        )
        return {**self.step.arguments, **extra}


def _steps(plan: Plan) -> Iterator[Step]:
    for step in plan.steps:
        yield step
        for body in step.bodies.values():
            yield from _steps(body)


def _samples() -> list[Sample]:
    """Return calls of kernels that have a shape rule: all of the official node tests, and one per version."""
    found: list[Sample] = []
    for name, model, inputs in (*_official_cases(), *_versions()):
        session = onnxref.InferenceSession(model, backend="numpy", optimize="none")
        steps = {id(step.node): step for step in _steps(session._plan(None))}

        def watch(execution: Any, name: str = name, steps: dict[int, Step] = steps) -> None:
            sample = Sample(name, steps[id(execution.node)], tuple(execution.inputs))
            if sample.rule is not None and all(_is_plain(x) for x in execution.inputs):
                found.append(sample)

        session.run_named(None, inputs, observers=[watch])
    return found


def _official_cases() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    for case in (case for case in official.load() if case.group == "node"):
        data, data_sets = case.contents()
        model = onnx.load_model_from_string(data)
        inputs, _ = decode_data_set(model, data_sets[0], types_only=True)
        names = [value.name for value in model.graph.input]
        yield case.name, model, dict(zip(names, inputs, strict=False))


def _versions() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield a model of each schema version that has a rule: the official tests are about the newest ones."""
    for own in onnx.defs.get_all_schemas_with_history():
        if registry.find_shape_rule(own.domain, own.name, own.since_version) is None:
            continue
        (variable, allowed), *_ = [
            cell for cell in cells(own) if not is_impossible(own, *cell) and "tensor(string)" not in cell
        ]
        call = make_call(own, variable, allowed)
        yield f"{own.name}-{own.since_version}", call.model, call.values


def _is_plain(x: Any) -> bool:
    return x is None or (isinstance(x, np.ndarray) and x.dtype != np.object_)


def _outputs(made: Any) -> Sequence[Any]:
    return made if isinstance(made, tuple) else (made,)


def _check(sample: Sample, inputs: Sequence[Any], **changed: Any) -> str:
    """Return what is wrong with the rule's answer, nothing if it is right or leaves it to the kernel.

    Args:
        changed: attributes that are not those of the case.
    """
    arguments = {**sample.arguments(), **changed}
    shaping = shaped_by(sample.step.node)
    assert shaping is not None
    shaping = (*shaping, *_KNOWN.get(sample.step.node.op_type, ()))
    seen = [x if x is None or i in shaping else ghost(x.shape, x.dtype) for i, x in enumerate(inputs)]
    try:
        foreseen = _outputs(sample.rule(*seen, **arguments))
    except Exception:  # noqa: BLE001 - a rule may refuse by anything
        return ""
    shown = [None if x is None else (x.shape, str(x.dtype)) for x in inputs]
    try:
        with np.errstate(all="ignore"):
            outputs = _outputs(sample.step.kernel(*inputs, **arguments))
    except Exception as error:  # noqa: BLE001 - as may a kernel
        told = [y.shape for y in foreseen]
        return f"{sample.case} {shown} {changed}: foresees {told}, but the kernel says {error}"
    for wanted, y, ours in zip(sample.step.wanted, outputs, foreseen, strict=False):
        y = np.asarray(y)
        if wanted and (ours.shape != y.shape or ours.dtype != y.dtype):
            return f"{sample.case} {shown} {changed}: {ours.dtype}{ours.shape} instead of {y.dtype}{y.shape}"
    return ""


def _bent(x: Array) -> Iterator[Array]:
    """Yield tensors like `x` with one axis longer, shorter, doubled or gone, and with one more."""
    for axis in range(x.ndim):
        n = x.shape[axis]
        for size in {n + 1, n - 1, 2 * n, 1} - {n, -1}:
            yield (
                np.resize(x, (*x.shape[:axis], size, *x.shape[axis + 1 :]))
                if n
                else np.zeros((*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype)
            )
        if n:
            yield x.take(0, axis=axis)
    yield x[np.newaxis]
    yield x[..., np.newaxis]


def _tame(sample: Sample, inputs: Sequence[Any]) -> list[Any]:
    """Return inputs whose values cannot be the reason for an error."""
    tamed = list(inputs)
    position = _INDEXED.get(sample.step.node.op_type)
    if position is not None:
        tamed[position] = np.zeros_like(tamed[position])
    lengths = _LENGTHS.get(sample.step.node.op_type, len(tamed))
    if lengths < len(tamed) and tamed[lengths] is not None:
        tamed[lengths] = np.zeros_like(tamed[lengths])
    return tamed


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return _samples()


def test_rules_tell_the_outputs_of_the_official_cases(samples: list[Sample]) -> None:
    assert not [wrong for sample in samples if (wrong := _check(sample, sample.inputs))]
    told = Counter(sample.step.node.op_type for sample in samples)
    assert len(told) > 90, sorted(told)


def test_rules_refuse_what_kernels_refuse(samples: list[Sample]) -> None:
    wrong, refused = [], 0
    for sample in samples:
        for position, x in enumerate(sample.inputs):
            if x is None or x.size > 4096:
                continue
            for other in _bent(x):
                inputs = [*sample.inputs[:position], other, *sample.inputs[position + 1 :]]
                found = _check(sample, _tame(sample, inputs))
                refused += not found
                if found:
                    wrong.append(found)
    assert not wrong, f"{len(wrong)} of {refused + len(wrong)}:\n" + "\n".join(wrong[:40])


def _other_values(value: Any) -> Iterator[Any]:
    """Yield values of an attribute that the official cases do not have, most of them wrong."""
    match value:
        case str():
            yield "nonsense"
        case int():
            yield from (value + 1, value + 5, -7, 0, 2**40)
        case float():
            yield from (math.nan, -1.0, 0.0, math.inf)
        case tuple():
            yield (*value, *value[:1])
            for i, item in enumerate(value):
                yield (*value[:i], *value[i + 1 :])
                for other in _other_values(item):
                    yield (*value[:i], other, *value[i + 1 :])


def test_rules_refuse_the_attributes_that_kernels_refuse(samples: list[Sample]) -> None:
    wrong, tried = [], 0
    for sample in samples:
        if sum(x.size for x in sample.inputs if x is not None) > 4096:
            continue
        for name, value in sample.step.arguments.items():
            for other in _other_values(value):
                found = _check(sample, _tame(sample, sample.inputs), **{name: other})
                tried += 1
                if found:
                    wrong.append(found)
    assert not wrong, f"{len(wrong)} of {tried}:\n" + "\n".join(wrong[:40])
