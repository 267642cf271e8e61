"""What lowerings check of operands, and how they refuse.

What a check does not like is `Unsupported`, never an error: the reference kernel runs instead, and it is the
one to name what is wrong with a node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, TypeVar, cast

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.lowering import Operand, Site, Unsupported

from ..numpy._checks import int_vector

_L = TypeVar("_L", bound=Callable[..., None])


def refusing(emit: _L) -> _L:
    """Turn the error about an invalid node into Unsupported: the reference kernel raises it again."""

    @wraps(emit)
    def guarded(*arguments: Any, **attributes: Any) -> None:
        try:
            emit(*arguments, **attributes)
        except KernelError as error:
            raise Unsupported(str(error)) from error

    return cast(_L, guarded)


def accept(condition: bool, reason: str) -> None:
    """Refuse unless a condition holds."""
    if not condition:
        raise Unsupported(reason)


def only_output(site: Site) -> Operand:
    """Return the node's output."""
    (output,) = site.outputs
    if output is None:
        raise Unsupported("nothing wants its output")
    return output


def known(operand: Operand, name: str) -> Array:
    """Return the value of an input that must be known while planning."""
    if operand.constant is None:
        raise Unsupported(f"{name} is not constant")
    return operand.constant


def known_ints(operand: Operand, name: str) -> list[int]:
    """Return the value of an input of integers that decides about shapes or places."""
    return int_vector(known(operand, name), name)


def check_movable(*operands: Operand) -> None:
    """Refuse elements that are not of a fixed size, or not of a size that is copied at once."""
    for operand in operands:
        if operand.dtype.kind == "O" or operand.dtype.itemsize not in (1, 2, 4, 8, 16):
            raise Unsupported(f"elements of type {operand.dtype.name}")


def check_result(output: Operand, shape: Iterable[int]) -> None:
    """Refuse a node whose inputs make another shape than the planner knows."""
    if output.shape != tuple(shape):
        raise Unsupported(f"shape {tuple(shape)} is not the {output.shape} of the plan")
