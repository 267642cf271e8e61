"""A row of the suite `versions`: one node at one version, and what that version's text says comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One case.

    Attributes:
        name: `test_`, the operator, its version, and the rule in a few words.
        operator: the node's operator.
        version: the schema version, which is also the opset that the model imports.
        rule: the sentence of the schema that the newest version no longer holds.
        inputs: the node's inputs; None for one that is left out.
        outputs: what must come out; None for an output that is left out.
        domain: the operator's domain; "" is ai.onnx.
        rtol: relative tolerance: float32 as a few operations leave it, unless a row needs another.
        atol: absolute tolerance, for zeros.
    """

    name: str
    operator: str
    version: int
    rule: str
    inputs: Sequence[Array | None]
    outputs: Sequence[Array | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    rtol: float = 1e-5
    atol: float = 1e-7


def f32(*values: Any) -> Array:
    """Return float32: one nested list as it is, several values as a vector."""
    return np.array(values[0] if len(values) == 1 else values, np.float32)


def i64(*values: Any) -> Array:
    """Return int64: one nested list as it is, several values as a vector."""
    return np.array(values[0] if len(values) == 1 else values, np.int64)
