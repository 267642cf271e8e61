"""What a row of `function_cases.py` is, and makers of its inputs.

How far apart kernel and body may be is given in roundings of the output's type: the kernel rounds
once, the body after every step, and a step's error is half a unit in the last place of what it
rounds. `scale` is the size of the largest intermediate, which counts where the result is smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Make = Callable[[np.random.Generator, np.dtype[Any]], Any]

F32, F64, F16, BF16 = (np.dtype(t) for t in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16))
FLOATS = (F32, F64, F16, BF16)
SIGNED = tuple(np.dtype(t) for t in ("int8", "int16", "int32", "int64"))
UNSIGNED = tuple(np.dtype(t) for t in ("uint8", "uint16", "uint32", "uint64"))
INTS = SIGNED + UNSIGNED
ALL_TYPES = (*FLOATS, *INTS, np.dtype(bool), np.dtype(object))


class Kind(Enum):
    """How kernel and body stand to each other where they do not agree."""

    DIFFERENT = auto()  # they give other values
    FLOAT32_BODY = auto()  # the body computes double in float32 somewhere: equal to that precision only
    INVALID_BODY = auto()  # the body breaks a schema or fails, or the schema gives none


DIFFERENT, FLOAT32_BODY, INVALID_BODY = Kind


@dataclass(frozen=True)
class Deviation:
    """A place where kernel and body are known not to agree; that they still do not is tested.

    Attributes:
        reason: why, and why the kernel is right.
        dtypes, since: types under test and schema versions meant; no versions means all.
    """

    kind: Kind
    reason: str
    dtypes: tuple[np.dtype[Any], ...] = ALL_TYPES
    since: tuple[int, ...] = ()


@dataclass(frozen=True)
class Row:
    """One call of an operator.

    Attributes:
        inputs: makers of the inputs; None for one that is absent.
        attributes: a callable is asked for its value with the type under test.
        dtypes: types of the first input, as far as the schema version allows them.
        since: the schema versions meant; none means all that have a body.
        roundings: of the body, in units in the last place of the output's type.
        scale: size of the largest intermediate.
        stage: the type in which both compute inside, where it may be coarser than the output's.
        deviations: where kernel and body do not agree.
    """

    op_type: str
    label: str
    inputs: Sequence[Make | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    dtypes: tuple[np.dtype[Any], ...] = FLOATS
    since: tuple[int, ...] = ()
    n_outputs: int = 1
    roundings: float = 2
    scale: float = 1.0
    stage: np.dtype[Any] | None = None
    deviations: tuple[Deviation, ...] = ()

    def deviation(self, since: int, dtype: np.dtype[Any]) -> Deviation | None:
        """Return what the row says about this schema version and type."""
        found = (d for d in self.deviations if dtype in d.dtypes and (not d.since or since in d.since))
        return next(found, None)

    def attributes_for(self, dtype: np.dtype[Any]) -> dict[str, Any]:
        """Return the attributes, those that depend on the type under test put in."""
        return {name: value(dtype) if callable(value) else value for name, value in self.attributes.items()}


def uniform(*shape: int, low: float = -3, high: float = 3) -> Make:
    """Return a maker of values between two bounds in the type under test; unsigned types start at 0."""

    def make(rng: np.random.Generator, dtype: np.dtype[Any]) -> NDArray[Any]:
        if dtype.kind == "O":
            return rng.choice(np.array(["a", "bc", ""], object), shape)
        if dtype.kind == "b":
            return rng.integers(0, 2, shape).astype(bool)
        if dtype.kind in "iu":
            least = 0 if dtype.kind == "u" else int(low)
            return rng.integers(least, int(high), shape, endpoint=True).astype(dtype)
        return rng.uniform(low, high, shape).astype(dtype)

    return make


def unit(*shape: int) -> Make:
    """Return a maker of values in [-1, 1]."""
    return uniform(*shape, low=-1, high=1)


def values(*numbers: Any) -> Make:
    """Return a maker of the same 1-d values in whatever type is under test."""

    def make(rng: np.random.Generator, dtype: np.dtype[Any]) -> NDArray[Any]:
        with np.errstate(over="ignore"):  # what is too large for a type shall be infinite there
            return np.array(numbers).astype(dtype)

    return make


def scalar(number: Any) -> Make:
    """Return a maker of a 0-d value in the type under test."""
    return lambda rng, dtype: np.array(number).astype(dtype)


def fixed(array: Any, dtype: Any = np.int64) -> Make:
    """Return a maker of one array, whatever type is under test."""
    return lambda rng, _: np.array(array, dtype)


def as_type(dtype: np.dtype[Any], make: Make) -> Make:
    """Return a maker that is bound to one type."""
    return lambda rng, _: make(rng, dtype)


def labels(*shape: int, classes: int, dtype: Any = np.int64) -> Make:
    """Return a maker of class numbers."""
    return lambda rng, _: rng.integers(0, classes, shape).astype(dtype)


def sequence(*items: Make) -> Make:
    """Return a maker of a sequence."""
    return lambda rng, dtype: [make(rng, dtype) for make in items]


def but(deviation: Deviation, *rows: Row) -> list[Row]:
    """Return the rows, this deviation added to each."""
    return [replace(row, deviations=(*row.deviations, deviation)) for row in rows]


# Label, inputs and attributes of a row.
Call = tuple[str, Sequence[Make | None], Mapping[str, Any]]


def rows(op_type: str, *calls: Call, **common: Any) -> list[Row]:
    """Return rows of one operator that have all but these in common."""
    return [Row(op_type, label, inputs, attributes, **common) for label, inputs, attributes in calls]
