"""Families whose lowerings differ only in what they emit.

A rule has a lowering's signature, but returns as data what a node asks for: it resolves attributes, checks
what the specification demands, and refuses what no kernel set does. Each kernel set registers all rules of a
family with a function of its own that turns such data into calls or launches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Generic, TypeVar

from onnxref.errors import KernelError
from onnxref.lowering import BlockedRule, Site, Unsupported, lower
from onnxref.registry import ONNX

_T = TypeVar("_T")
_R = TypeVar("_R", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class _Rule(Generic[_T]):
    op_type: str
    since: int | tuple[int, ...]
    domain: str
    goes_along: bool
    find: Callable[..., _T]


class Rules(Generic[_T]):
    """The rules of a family, all of which return a `_T`."""

    def __init__(self) -> None:
        self._rules: list[_Rule[_T]] = []

    def rule(
        self, op_type: str, *, since: int | tuple[int, ...], domain: str = ONNX, goes_along: bool = True
    ) -> Callable[[_R], _R]:
        """Add a rule for the schema versions `since` of an operator.

        Args:
            goes_along: whether the node may work on blocked tensors, where a kernel set says how.
        """

        def add(find: _R) -> _R:
            self._rules.append(_Rule(op_type, since, domain, goes_along, find))
            return find

        return add

    def register(
        self, backend: str, emit: Callable[[Site, _T], None], blocked: BlockedRule | None = None
    ) -> None:
        """Register a lowering for each rule; see `onnxref.lowering.lower`.

        Args:
            emit: adds the calls for what a rule returned; a KernelError of either means that it refuses.
        """
        for rule in self._rules:
            lower(
                rule.op_type,
                since=rule.since,
                domain=rule.domain,
                backend=backend,
                blocked=blocked if rule.goes_along else None,
            )(_lowering(rule.find, emit))


def _lowering(find: Callable[..., _T], emit: Callable[[Site, _T], None]) -> Callable[..., None]:
    @wraps(find)
    def lowering(site: Site, *inputs: Any, **attributes: Any) -> None:
        try:
            emit(site, find(site, *inputs, **attributes))
        except KernelError as error:  # as `refusing` does, with one call less
            raise Unsupported(str(error)) from error

    return lowering
