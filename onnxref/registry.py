"""Operator implementations, found by domain, operator type and schema version.

A kernel is a plain function, registered where it is defined:

    @op("Softmax", since=13)
    def softmax(input, *, axis=-1): ...

    @op("Softmax", since=(1, 11))
    def softmax_2d(input, *, axis=1): ...

The kernel contract
    1. Inputs are positional, in schema order, with the schema's names in lower case; an optional
       input has the default None, a variadic input is `*args`. The names are those of the newest
       schema version that the registration claims.
    2. Attributes are keyword-only, with the schema's names and that version's defaults.
       INT -> int, FLOAT -> float, STRING -> str, lists -> tuples, TENSOR -> array,
       GRAPH -> `Body`. An attribute that may be absent and has no default is None.
    3. `since` names every schema version that the function implements.
    4. A kernel never changes its inputs. It returns one value, or a tuple of all outputs
       (trailing ones that nobody asked for may be left out or None).
    5. A keyword-only parameter `ctx` receives a `Context`: which outputs are wanted, random
       numbers, limits. `prepared` receives what `prepare(**attributes)` returned, computed once
       per node; the kernel then takes no attributes itself.
    6. Bad arguments raise `KernelError`; the runtime adds the node's name, types and shapes.
    7. `cost(*inputs, **attributes)` predicts the size of the outputs from the same arguments in
       Python ints, before the kernel runs. Needed where the outputs may be much larger than the
       inputs; elsewhere the runtime charges what came out.

Shape rules
    A `shape_rule` has its kernel's arguments and returns what the kernel would, but as ghosts: arrays of the
    right shape and type without memory, whose values mean nothing. Inputs may be ghosts too, unless their
    values decide the outputs' shapes. It refuses, by any exception, whatever the kernel refuses for its
    shapes, types and attributes: native code is going to rely on that.
"""

from __future__ import annotations

import importlib
import inspect
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from .dtypes import Array, DType
from .errors import UnsupportedOperatorError
from .limits import Budget

Kernel = Callable[..., Any]
_K = TypeVar("_K", bound=Kernel)

ONNX = ""
ML = "ai.onnx.ml"
TRAINING = "ai.onnx.preview.training"
PREVIEW = "ai.onnx.preview"
MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
INTERNAL = "onnxref.internal"  # what only the planner emits; no model is meant to use it

_NOTHING = bytes(16)  # as wide as the widest element type


class Cost(NamedTuple):
    """What a node is going to use, in bytes."""

    out_bytes: int
    scratch_bytes: int = 0

    @staticmethod
    def of(shape: Sequence[int], dtype: DType) -> Cost:
        """Cost of one output of this shape and dtype (strings count as references)."""
        return Cost(math.prod(int(d) for d in shape) * dtype.itemsize)


class Body(Protocol):
    """A subgraph attribute, bound to the outer values it uses, ready to be called."""

    @property
    def input_names(self) -> tuple[str, ...]: ...

    @property
    def output_names(self) -> tuple[str, ...]: ...

    @property
    def output_types(self) -> tuple[Any, ...]:
        """Declared type of each output, None where the model does not say."""
        ...

    def __call__(self, *inputs: Any) -> tuple[Any, ...]: ...


@dataclass(slots=True)
class Context:
    """What a kernel may ask of the run it is part of.

    Attributes:
        wanted: for each output of the node, whether anything uses it.
        budget: limits; ask it before making anything large that `cost` could not foresee, and for the
            time in loops that a small input can make long.
        opset: version of the node's operator set that the model imports.
        generator: source of randomness for nodes without a seed.
    """

    wanted: tuple[bool, ...] = (True,)
    budget: Budget = field(default_factory=Budget)
    opset: int = 0
    generator: np.random.Generator = field(default_factory=np.random.default_rng)

    @property
    def n_outputs(self) -> int:
        """How many outputs the node lists (unused ones in the middle included)."""
        return len(self.wanted)

    def rng(self, seed: float | None) -> np.random.Generator:
        """Return a generator: a fresh one from `seed`, or the run's own where there is none."""
        if seed is None:
            return self.generator
        return np.random.default_rng(np.float32(seed).view(np.uint32))


@dataclass(frozen=True)
class Operator:
    """One registered implementation of one or more schema versions."""

    domain: str
    op_type: str
    since: tuple[int, ...]
    kernel: Kernel
    cost: Callable[..., Cost] | None = None
    prepare: Callable[..., Any] | None = None
    user_defined: bool = False

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Parameters of the kernel itself."""
        return inspect.signature(self.kernel).parameters

    @cached_property
    def takes_context(self) -> bool:
        return "ctx" in self.parameters

    @cached_property
    def attributes(self) -> Mapping[str, inspect.Parameter]:
        """Keyword-only parameters that stand for attributes, wherever they are taken."""
        source = self.parameters if self.prepare is None else inspect.signature(self.prepare).parameters
        return {
            name: p
            for name, p in source.items()
            if p.kind is p.KEYWORD_ONLY and name not in ("ctx", "prepared")
        }


class _Versions:
    """Implementations of one operator, ordered by version."""

    def __init__(self) -> None:
        self.versions: list[int] = []
        self.operators: list[Operator] = []

    def add(self, version: int, operator: Operator) -> None:
        position = bisect_right(self.versions, version)
        if position and self.versions[position - 1] == version:
            raise ValueError(f"{operator.op_type}-{version} is registered twice")
        self.versions.insert(position, version)
        self.operators.insert(position, operator)

    def discard(self, version: int) -> None:
        if version in self.versions:
            position = self.versions.index(version)
            del self.versions[position], self.operators[position]

    def at(self, opset: int) -> Operator | None:
        position = bisect_right(self.versions, opset)
        return self.operators[position - 1] if position else None


_table: dict[tuple[str, str], _Versions] = {}
_shape_rules: dict[tuple[str, str, int], Kernel] = {}
_user_table: dict[tuple[str, str], _Versions] = {}


def op(
    op_type: str,
    *,
    since: int | tuple[int, ...],
    domain: str = ONNX,
    cost: Callable[..., Cost] | None = None,
    prepare: Callable[..., Any] | None = None,
) -> Callable[[_K], _K]:
    """Register a kernel for the schema versions `since` of an operator; see the module's contract."""
    versions = (since,) if isinstance(since, int) else since

    def register(kernel: _K) -> _K:
        operator = Operator(domain, op_type, versions, kernel, cost, prepare)
        entry = _table.setdefault((domain, op_type), _Versions())
        for version in versions:
            entry.add(version, operator)
        return kernel

    return register


def ghost(shape: Sequence[int], dtype: DType) -> Array:
    """Return a read-only array of a shape and type that takes no memory; its elements mean nothing."""
    return np.ndarray(shape, dtype, _NOTHING, strides=(0,) * len(shape))


def shape_rule(op_type: str, *, since: int | tuple[int, ...], domain: str = ONNX) -> Callable[[_K], _K]:
    """Register what tells the outputs' shapes and types of an operator; see the module's contract."""

    def register(rule: _K) -> _K:
        for version in (since,) if isinstance(since, int) else since:
            _shape_rules[domain, op_type, version] = rule
        return rule

    return register


def find_shape_rule(domain: str, op_type: str, since: int) -> Kernel | None:
    """Return the shape rule of the schema version `since` of an operator, None where there is none."""
    _load()
    return _shape_rules.get((domain, op_type, since))


def register_op(
    op_type: str, *, domain: str, since: int = 1, cost: Callable[..., Cost] | None = None
) -> Callable[[_K], _K]:
    """Register a Python function as an operator of your own, or in place of a standard one.

    The function takes the node's inputs positionally and its attributes as keywords, and returns one
    value or a tuple, as the kernel contract at the top of this module says. Sessions made afterwards
    use it; registering the same operator and version again replaces the function.

    Example:
        >>> @register_op("Twice", domain="my.ops")
        ... def twice(x, *, offset=0.0):
        ...     return 2 * x + x.dtype.type(offset)
    """
    if since < 1:
        raise ValueError(f"since must be at least 1 (got {since})")
    domain = "" if domain == "ai.onnx" else domain

    def register(kernel: _K) -> _K:
        operator = Operator(domain, op_type, (since,), kernel, cost, user_defined=True)
        entry = _user_table.setdefault((domain, op_type), _Versions())
        entry.discard(since)
        entry.add(since, operator)
        return kernel

    return register


def unregister_op(op_type: str, *, domain: str) -> None:
    """Forget every version of an operator registered with `register_op`.

    Raises:
        KeyError: it was not registered.
    """
    del _user_table["" if domain == "ai.onnx" else domain, op_type]


def operators() -> Iterator[tuple[int, Operator]]:
    """Yield every (schema version, implementation) of the library."""
    for entry in _load().values():
        yield from zip(entry.versions, entry.operators, strict=True)


def find(domain: str, op_type: str, opset: int) -> Operator:
    """Return the implementation for a node whose model imports version `opset` of `domain`.

    A user's own registration wins over the library's.

    Raises:
        UnsupportedOperatorError: nothing implements the operator at this version.
    """
    key = (domain, op_type)
    for table in (_user_table, _load()):
        entry = table.get(key)
        if entry is not None and (found := entry.at(opset)) is not None:
            return found
    raise UnsupportedOperatorError(_explain_missing(domain, op_type, opset))


def _load() -> dict[tuple[str, str], _Versions]:
    importlib.import_module("onnxref.kernels.numpy")
    return _table


def _explain_missing(domain: str, op_type: str, opset: int) -> str:
    shown = domain or "ai.onnx"
    table = _load()
    entry = table.get((domain, op_type)) or _user_table.get((domain, op_type))
    if entry is not None:
        return f"{op_type} of {shown} came with version {entry.versions[0]} (the model imports {opset})"
    if not any(key[0] == domain for key in (*table, *_user_table)):
        return (
            f"no operator of domain {shown!r} is known (wanted {op_type}); "
            "register it with onnxref.register_op"
        )
    return f"{shown} has no operator {op_type!r}; register it with onnxref.register_op"
