"""Known disagreements: `known_disagreements.toml`, and the predicates that its entries name."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import onnx

from .errors import FuzzError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a predicate may look at: one node, its attributes and its inputs."""

    inputs: Sequence[Array]
    attributes: dict[str, Any]

    @classmethod
    def of(cls, model: onnx.ModelProto, inputs: Sequence[Array]) -> Facts:
        node = model.graph.node[0]
        return cls(inputs, {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute})


def has_nan(facts: Facts) -> bool:
    """An input has a NaN."""
    return any(_any(np.isnan, value) for value in facts.inputs)


def has_infinity(facts: Facts) -> bool:
    """An input has an infinity."""
    return any(_any(np.isinf, value) for value in facts.inputs)


def not_finite(facts: Facts) -> bool:
    """An input has a NaN or an infinity."""
    return has_nan(facts) or has_infinity(facts)


def has_extreme_float(facts: Facts) -> bool:
    """An input has a float of more than 1e4, whose square, sum or exponential may overflow."""
    return any(_any(lambda wide: np.abs(wide) > 1e4, value) for value in facts.inputs)


def empty_tensor(facts: Facts) -> bool:
    """An input has no elements."""
    return any(value.size == 0 for value in facts.inputs)


def scalar(facts: Facts) -> bool:
    """The first input has no dimensions."""
    return facts.inputs[0].ndim == 0


def integer(facts: Facts) -> bool:
    """The first input has an integer type."""
    return facts.inputs[0].dtype.kind in "iu"


def empty_integer_tensor(facts: Facts) -> bool:
    """The first input has an integer type and no elements."""
    return integer(facts) and facts.inputs[0].size == 0


def has_extreme_integer(facts: Facts) -> bool:
    """The first input has the smallest or largest number of its integer type."""
    value = facts.inputs[0]
    if not integer(facts):
        return False
    bounds = np.iinfo(value.dtype)
    return bool(((value == bounds.max) | ((value == bounds.min) & (bounds.min < 0))).any())


def slices_of_strings(facts: Facts) -> bool:
    """The first input has strings, in two dimensions or more."""
    return facts.inputs[0].dtype.kind in "OU" and facts.inputs[0].ndim > 1


def all_zero(facts: Facts) -> bool:
    """The first input has numbers, none of which differs from 0."""
    return facts.inputs[0].dtype.kind not in "OU" and not facts.inputs[0].astype(np.float64).any()


def has_empty_text(facts: Facts) -> bool:
    """The first input has the empty string, or one of blanks only."""
    value = facts.inputs[0]
    return value.dtype.kind in "OU" and any(not str(text).strip() for text in value.reshape(-1))


def integer_division_by_zero(facts: Facts) -> bool:
    """There are two integer inputs, of which the second has a zero."""
    return len(facts.inputs) == 2 and integer(facts) and bool((facts.inputs[1] == 0).any())


def integer_negative_power(facts: Facts) -> bool:
    """An integer base, and an exponent with a negative number."""
    return len(facts.inputs) == 2 and integer(facts) and bool((facts.inputs[1] < 0).any())


def empty_range(facts: Facts) -> bool:
    """Three scalars, start, limit and delta, between which nothing lies."""
    if len(facts.inputs) != 3 or any(value.size != 1 for value in facts.inputs):
        return False
    start, limit, delta = (float(value.reshape(())) for value in facts.inputs)
    return (limit - start) * delta <= 0


def same_padding(facts: Facts) -> bool:
    """The attribute `auto_pad` is SAME_UPPER or SAME_LOWER."""
    return facts.attributes.get("auto_pad") in (b"SAME_UPPER", b"SAME_LOWER")


def ceil_mode(facts: Facts) -> bool:
    """The attribute `ceil_mode` is set."""
    return bool(facts.attributes.get("ceil_mode"))


def over_ten(facts: Facts) -> bool:
    """An input has a number above 10, whose exponential may overflow."""
    return any(_any(lambda wide: wide > 10, value) for value in facts.inputs)


def narrow_float(facts: Facts) -> bool:
    """The first input has a float type of 16 bits."""
    return facts.inputs[0].dtype.name in ("float16", "bfloat16")


def two_classes(facts: Facts) -> bool:
    """There are two class labels."""
    labels = ("classlabels_strings", "classlabels_int64s")
    return any(len(facts.attributes.get(name, ())) == 2 for name in labels)


def has_int32_limit(facts: Facts) -> bool:
    """An input other than the first has the largest int32."""
    return any(value.dtype.kind == "i" and bool((value == 2**31 - 1).any()) for value in facts.inputs[1:])


def interpolated_integer(facts: Facts) -> bool:
    """The first input has an integer type, and the attribute `mode` is not `nearest`."""
    return integer(facts) and facts.attributes.get("mode", b"nearest") != b"nearest"


def negative_leaf(facts: Facts) -> bool:
    """A leaf of a tree has a weight below 0."""
    return any(weight < 0 for weight in facts.attributes.get("class_weights", ()))


def based_targets(facts: Facts) -> bool:
    """There are several targets with base values."""
    return facts.attributes.get("n_targets", 1) > 1 and "base_values" in facts.attributes


def _any(test: Callable[[Array], Array], value: Array) -> bool:
    if value.dtype.kind in "OUbiu" or not value.size:
        return False
    return bool(test(value.astype(np.float64)).any())


PREDICATES: dict[str, Callable[[Facts], bool]] = {
    predicate.__name__: predicate
    for predicate in (
        has_nan,
        has_infinity,
        not_finite,
        has_extreme_float,
        empty_tensor,
        empty_range,
        scalar,
        integer,
        empty_integer_tensor,
        has_extreme_integer,
        slices_of_strings,
        all_zero,
        has_empty_text,
        integer_division_by_zero,
        integer_negative_power,
        same_padding,
        ceil_mode,
        over_ten,
        interpolated_integer,
        negative_leaf,
        based_targets,
        narrow_float,
        two_classes,
        has_int32_limit,
    )
}


@dataclass(frozen=True, slots=True)
class Known:
    """One reviewed disagreement.

    Attributes:
        operator: the one operator of the node.
        backends: the two backends, in either order.
        predicate: name of the predicate that must hold for the inputs.
        condition: when they differ, in words.
        right: which backend follows the specification; `unspecified` where it does not decide.
        why: the reason.
    """

    operator: str
    backends: frozenset[str]
    predicate: str
    condition: str
    right: str
    why: str

    def covers(self, operator: str, backends: Iterable[str], facts: Facts) -> bool:
        """Whether a disagreement of two backends is this one."""
        return (
            self.operator == operator
            and self.backends == frozenset(backends)
            and PREDICATES[self.predicate](facts)
        )


@cache
def known_disagreements() -> tuple[Known, ...]:
    """Return the entries of the reviewed list."""
    text = (resources.files(__package__) / "known_disagreements.toml").read_text(encoding="utf-8")
    return parse_known(text)


def parse_known(text: str) -> tuple[Known, ...]:
    """Return the entries of a list of known disagreements.

    Raises:
        FuzzError: an entry names no predicate, or not two backends.
    """
    found = []
    for entry in tomllib.loads(text).get("known", []):
        operators = entry.pop("operators")
        backends = frozenset(entry.pop("backends"))
        if entry["predicate"] not in PREDICATES:
            raise FuzzError(f"{operators}: there is no predicate {entry['predicate']!r}")
        if len(backends) != 2:
            raise FuzzError(f"{operators}: backends must be two (got {sorted(backends)})")
        found += [Known(operator=operator, backends=backends, **entry) for operator in operators]
    return tuple(found)
