"""Cases whose stored expectation contradicts the specification, from `suites/adjudications.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from . import values
from .cases import ATOL, Case, decode_data_set, parse_model
from .errors import BrokenCaseError
from .suites._right_attention import attention

# Outcomes that a wrong expectation explains where no result is right. It never explains a crash or a hang.
REFUSED = frozenset({"error", "unsupported", "broken"})

RIGHT = ("refusal", "installed", "random", "stored", "lost", "given", "formula")


@dataclass(frozen=True, slots=True)
class Adjudication:
    """Why a backend that follows the specification cannot pass these cases.

    Attributes:
        suites: the suites in which the cases are wrong, such as `release-1.4.1`.
        cases: `group/name` of each; no patterns.
        expects: what the stored data expects.
        spec: what the specification says, with the place.
        why: how the data came to be wrong.
        right: what is right instead: `refusal`, no result at all; `installed`, what the installed onnx
            package expects for the same inputs; `random`, any values of the declared types and shapes;
            `stored`, what is stored, but within `atol`; `given`, the numbers in `outputs`; `formula`, what
            `suites/_right_attention.py` computes; `lost`, nobody knows any more.
        atol: absolute tolerance of the comparison with what is right.
        outputs: for each case the numbers of each output, without their shape.
        passing: why a backend may pass all the same, without a fault; "" where it may not.
    """

    suites: tuple[str, ...]
    cases: tuple[str, ...]
    expects: str
    spec: str
    why: str
    right: str
    atol: float = ATOL
    outputs: dict[str, list[list[Any]]] = field(default_factory=dict)
    passing: str = ""

    def explains(self, outcome: str, is_right: bool) -> bool:
        """Whether an outcome is what a right backend comes to: a refusal, or the right result."""
        if self.right in ("refusal", "lost"):
            return outcome in REFUSED or (self.right == "lost" and outcome == "failed")
        return outcome == "failed" and is_right


@cache
def adjudications() -> dict[str, Adjudication]:
    """Return the adjudications by the identifiers of their cases."""
    text = (resources.files(__package__) / "suites" / "adjudications.toml").read_text(encoding="utf-8")
    found: dict[str, Adjudication] = {}
    for entry in tomllib.loads(text)["adjudication"]:
        # The texts are wrapped for the reader of the file.
        entry |= {key: " ".join(entry.get(key, "").split()) for key in ("expects", "spec", "why", "passing")}
        made = Adjudication(suites=tuple(entry.pop("suites")), cases=tuple(entry.pop("cases")), **entry)
        if made.right not in RIGHT:
            raise ValueError(f"right must be one of {', '.join(RIGHT)} (got {made.right!r})")
        for name in (f"{suite}/{case}" for suite in made.suites for case in made.cases):
            if name in found:
                raise ValueError(f"{name} is adjudicated twice")
            found[name] = made
    return found


def with_right_outputs(cases: Sequence[Case]) -> list[Case]:
    """Return the cases, those that are adjudicated with what is right instead of their expectation."""
    known = adjudications()
    return [_with_right(case, known[case.id]) if case.id in known else case for case in cases]


def _with_right(case: Case, entry: Adjudication) -> Case:
    if entry.right in ("refusal", "lost"):
        return case
    if entry.right == "random":
        return replace(case, right_declared=True)
    try:
        return replace(case, right=_right_outputs(case, entry), right_atol=entry.atol)
    except BrokenCaseError:
        return case  # which the worker finds as well


def _right_outputs(case: Case, entry: Adjudication) -> tuple[bytes, ...]:
    model_bytes, (data_set, *_) = case.contents()
    if entry.right == "stored":
        return data_set.outputs
    if entry.right == "installed":
        return _installed()[f"{case.group}/{case.name}"].contents()[1][0].outputs
    model = parse_model(model_bytes)
    inputs, expected = decode_data_set(model, data_set)
    graph = model.graph
    if entry.right == "formula":
        feeds = {info.name: value for info, value in zip(graph.input, inputs, strict=True)}
        made = attention(graph.node[0], feeds)
        numbers = [made[info.name] for info in graph.output]
    else:
        numbers = [np.array(x) for x in entry.outputs[case.name]]
    return tuple(
        values.encode(_like(old, new), info.type)
        for old, new, info in zip(expected, numbers, graph.output, strict=True)
    )


def _like(old: Any, new: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return numbers in the shape and type of what was expected."""
    made: np.ndarray[Any, Any] = new.astype(old.dtype).reshape(old.shape)
    return made


@cache
def _installed() -> dict[str, Case]:
    """Return the node cases of the installed onnx package by group and name."""
    # Making the node cases takes seconds, so that only runs with such an entry pay for it.
    from .suites import official

    return {f"{case.group}/{case.name}": case for case in official.load()}
