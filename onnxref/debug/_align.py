"""Which value of one model is which value of another, whatever they are called.

Rules, in this order; every value is taken at most once, and a later rule never undoes an earlier one
    1. Inputs and outputs of the graphs are the same by name, else by position.
    2. Forwards: two values are the same if the same operator with the same attributes makes them from the
       same inputs; constants are the same by their content.
    3. Backwards: if two values are the same and the same operator makes both, so are its inputs, whatever the
       content of constants.
    4. By value, where values of a run are given: same shape, equal within a tolerance, of enough elements
       that this is no coincidence. Then rule 3 again from there.
    5. Forwards, loosely: constants are the same by their shape, and conversions between types
       (quantisation too) are looked through; then activations too, which quantisers fold.
    6. By order: what is left is matched by operator, as a text comparison matches lines, in the stretches
       between values that are matched already.
"""

from __future__ import annotations

import bisect
import difflib
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import registry
from ..dtypes import Array
from ..errors import OnnxRefError
from ..graph import Graph, Node, SparseTensor, names_used
from ._errors_between import wide

_CONVERSIONS = frozenset({"Identity", "Dropout", "Cast", "CastLike", "QuantizeLinear", "DequantizeLinear"})
_ACTIVATIONS = frozenset({"Relu", "Clip"})
_COMMUTATIVE = frozenset({"Add", "Mul", "And", "Or", "Xor", "Max", "Min", "Sum", "Mean", "Equal"})
# Operators that hand integers on as they are.
_MOVES = frozenset(
    {
        "MaxPool",
        "Reshape",
        "Transpose",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "Slice",
        "Gather",
        "Relu",
    }
)
_LEAST_ELEMENTS = 8  # of a value that is recognised by what it holds

# Quantised operators: the float operator, its inputs among theirs, and where the output's scale is.
QUANTISED: Mapping[str, tuple[str, tuple[int, ...], int]] = {
    "QLinearConv": ("Conv", (0, 3, 8), 6),
    "QLinearMatMul": ("MatMul", (0, 3), 6),
    "QGemm": ("Gemm", (0, 3, 6), 7),
    "QLinearAdd": ("Add", (0, 3), 6),
    "QLinearMul": ("Mul", (0, 3), 6),
    "QLinearSigmoid": ("Sigmoid", (0,), 3),
    "QLinearLeakyRelu": ("LeakyRelu", (0,), 3),
    "QLinearSoftmax": ("Softmax", (0,), 3),
    "QLinearAveragePool": ("AveragePool", (0,), 3),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,), 3),
}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a value holds, in a few numbers: its shape, its length as a vector, and two projections of it."""

    shape: tuple[int, ...]
    norm: float
    projections: tuple[float, float]

    def is_near(self, other: Fingerprint, rtol: float) -> bool:
        """Whether both values may be equal within `rtol` of their length."""
        if self.shape != other.shape or not self.norm or not other.norm:
            return False
        allowed = rtol * max(self.norm, other.norm)
        pairs = zip((self.norm, *self.projections), (other.norm, *other.projections), strict=True)
        return all(abs(one - two) <= allowed for one, two in pairs)


_WAVES = np.random.default_rng(0).standard_normal((2, 1 << 14))


def fingerprint(value: Any) -> Fingerprint | None:
    """Return what a tensor of numbers holds; None for other values, small ones, and constant ones."""
    if not isinstance(value, np.ndarray) or value.dtype.kind in "OUTc" or value.size < _LEAST_ELEMENTS:
        return None
    flat = value.reshape(-1)
    square, sums = 0.0, np.zeros(2)
    step = _WAVES.shape[1]
    with np.errstate(all="ignore"):
        for i, start in enumerate(range(0, flat.size, step)):
            chunk = wide(flat[start : start + step])
            square += float(np.dot(chunk, chunk))
            # Shifted from chunk to chunk, so that moved chunks are told apart.
            sums += np.roll(_WAVES, i, axis=1)[:, : chunk.size] @ chunk
    if not np.isfinite(square) or (
        bool(np.all(flat[:_LEAST_ELEMENTS] == flat[0])) and bool(np.all(flat == flat[0]))
    ):
        return None
    return Fingerprint(value.shape, float(np.sqrt(square)), (float(sums[0]), float(sums[1])))


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """An integer type's numbers as floats: `(integer - zero_point) * scale`, along one axis or for all."""

    scale: Array
    zero_point: Array
    axis: int = 1

    def to_float(self, value: Array) -> Array:
        """Return the floats that integers stand for."""
        scale, zero = self._shaped(value.ndim)
        return np.asarray((value.astype(np.float64) - zero) * scale, dtype=np.float32)

    def to_integers(self, value: Array) -> Array:
        """Return the integers that stand for floats, saturated."""
        scale, zero = self._shaped(value.ndim)
        limits = np.iinfo(self.zero_point.dtype)
        with np.errstate(all="ignore"):
            rounded = np.rint(value.astype(np.float64) / scale) + zero
            clipped: Array = np.clip(rounded, limits.min, limits.max).astype(self.zero_point.dtype)
        return clipped

    @property
    def starts_at_zero(self) -> bool:
        """Whether negative numbers cannot be told from zero, so that a Relu can be left out."""
        return bool(np.all(self.zero_point == np.iinfo(self.zero_point.dtype).min))

    def _shaped(self, rank: int) -> tuple[Array, Array]:
        if self.scale.size == 1:
            return self.scale.reshape(()).astype(np.float64), self.zero_point.reshape(-1)[:1].astype(
                np.float64
            )
        shape = [1] * rank
        shape[self.axis] = -1
        zero = np.broadcast_to(self.zero_point, self.scale.shape)
        return self.scale.astype(np.float64).reshape(shape), zero.astype(np.float64).reshape(shape)


@dataclass(frozen=True, slots=True)
class Alignment:
    """Values of one model and their counterparts in another.

    Attributes:
        values: the other model's name by one's own.
        rules: how each was found: "name", "forwards", "backwards", "value", "loosely" or "order".
        inputs: the other model's inputs by one's own.
        scales: how values that the other model holds as integers stand for floats, by their name there.
    """

    values: Mapping[str, str]
    rules: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    scales: Mapping[str, Scale] = field(default_factory=dict)


def align(
    first: Graph,
    second: Graph,
    prints: tuple[Mapping[str, Fingerprint], Mapping[str, Fingerprint]] | None = None,
    *,
    rtol: float = 1e-3,
) -> Alignment:
    """Return the counterparts of one graph's values in another graph.

    Args:
        prints: fingerprints of both graphs' values in a run with the same inputs, for rule 4.
        rtol: how near they must be.
    """
    return _Aligner(_Side(first), _Side(second), prints, rtol).align()


class _Side:
    """One of two graphs, indexed."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.makers: dict[str, tuple[Node, int]] = {}
        self.constants: dict[str, Any] = {}
        required = {value.name for value in graph.inputs}
        self.constants.update((n, a) for n, a in graph.initializers.items() if n not in required)
        self.constants.update((n, a) for n, a in graph.initializers.items() if n in required)
        for node in graph.nodes:
            if node.op_type == "Constant" and not node.domain:
                self.constants[node.outputs[0]] = next(iter(node.attributes.values()), None)
                continue
            for i, name in enumerate(node.outputs):
                if name:
                    self.makers[name] = (node, i)
        self.order = {name: i for i, name in enumerate(self.makers)}
        self.users: dict[str, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            for name in names_used(node):
                self.users[name].append(node)

    def is_conversion(self, name: str, ops: Collection[str]) -> bool:
        return name in self.makers and self.makers[name][0].op_type in ops

    def scales(self) -> dict[str, Scale]:
        """Return how integers made by quantising operators stand for floats, where that is constant."""
        found: dict[str, Scale] = {}
        for node in self.graph.nodes:
            place = QUANTISED[node.op_type][2] if node.op_type in QUANTISED else 1
            if node.op_type in QUANTISED or node.op_type == "QuantizeLinear":
                names = [*node.inputs[place : place + 2], ""]
                scale, zero = (self.constants.get(name) for name in names[:2])
                if isinstance(scale, np.ndarray):
                    zero = zero if isinstance(zero, np.ndarray) else np.zeros(1, np.uint8)
                    if zero.dtype.kind in "iu":
                        found[node.outputs[0]] = Scale(scale, zero, node.attributes.get("axis", 1))
            elif node.op_type in _MOVES and node.inputs[0] in found and found[node.inputs[0]].scale.size == 1:
                found |= dict.fromkeys(node.outputs[:1], found[node.inputs[0]])
        return found

    def hashes(self, anchors: Mapping[str, str], *, loose: bool, through: Collection[str]) -> dict[str, str]:
        """Return a hash of how each value comes about.

        Args:
            anchors: values that are the same on both sides, by what stands for them.
            loose: constants count by their shape.
            through: operators whose output counts as their input.
        """
        found: dict[str, str] = {"": ""}
        for name, constant in self.constants.items():
            found[name] = _shape_key(constant) if loose else _content_key(constant)
        found |= {value.name: f"input {value.name}" for value in self.graph.inputs if value.name not in found}
        found |= {name: anchor for name, anchor in anchors.items() if name not in self.makers}
        for node in self.graph.nodes:
            if node.outputs[0] in self.constants:
                continue
            inputs = [found.get(name, "outer") for name in node.inputs]
            looked_through = node.op_type in through and node.inputs and node.inputs[0]
            key = inputs[0] if looked_through else _node_key(node, inputs, loose=loose)
            for i, name in enumerate(node.outputs):
                found[name] = anchors.get(name) or (key if looked_through else _digest(key, str(i)))
        return found


class _Aligner:
    def __init__(
        self,
        first: _Side,
        second: _Side,
        prints: tuple[Mapping[str, Fingerprint], Mapping[str, Fingerprint]] | None,
        rtol: float,
    ) -> None:
        self.first, self.second, self.prints, self.rtol = first, second, prints, rtol
        self.values: dict[str, str] = {}
        self.taken: set[str] = set()
        self.rules: dict[str, str] = {}
        self.inputs: dict[str, str] = {}
        self.second_scales = second.scales()
        self.folded_away: set[str] = set()

    def align(self) -> Alignment:
        self.by_interface()
        self.forwards("forwards", loose=False, through=())
        self.backwards(list(self.values))
        self.by_value()
        self.forwards("loosely", loose=True, through=_CONVERSIONS)
        self.forwards("loosely", loose=True, through=_CONVERSIONS | _ACTIVATIONS)
        self.backwards(list(self.values))
        self.by_order()
        ordered = {name: self.values[name] for name in self.first.order if name in self.values}
        return Alignment(ordered, self.rules, self.inputs, self.second_scales)

    def add(self, one: str, other: str, rule: str) -> bool:
        """Note a pair, unless one of them is taken, no node makes it, or their shapes tell them apart."""
        if one in self.values or one in self.folded_away or other in self.taken:
            return False
        if one not in self.first.makers or other not in self.second.makers:
            return False
        if rule != "name" and not self.have_one_shape(one, other):
            return False
        self.values[one] = other
        self.taken.add(other)
        self.rules[one] = rule
        return True

    def have_one_shape(self, one: str, other: str) -> bool:
        """Whether two values have one shape, as far as a run has shown."""
        if self.prints is None:
            return True
        shapes = [side.get(name) for side, name in zip(self.prints, (one, other), strict=True)]
        return shapes[0] is None or shapes[1] is None or shapes[0].shape == shapes[1].shape

    def by_interface(self) -> None:
        """Rule 1."""
        ours = [v.name for v in self.first.graph.required_inputs]
        theirs = [v.name for v in self.second.graph.required_inputs]
        self.inputs = _pair_names(ours, theirs)
        outputs = ([v.name for v in side.graph.outputs] for side in (self.first, self.second))
        for one, other in _pair_names(*outputs).items():
            self.add(one, other, "name")

    def forwards(self, rule: str, *, loose: bool, through: Collection[str]) -> None:
        """Rules 2 and 5."""
        known = {**self.inputs, **(self.values if loose else {})}
        anchors = {one: f"pair {other}" for one, other in known.items()}
        ours = self.first.hashes(anchors, loose=loose, through=through)
        theirs = self.second.hashes(
            {other: f"pair {other}" for other in known.values()}, loose=loose, through=through
        )
        classes: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for side, hashes, values in ((self.first, ours, 0), (self.second, theirs, 1)):
            for name in side.makers:
                # Constants of one shape are not the same because of that.
                is_constant = loose and hashes[name].startswith("constant")
                if name not in (self.values if values == 0 else self.taken) and not is_constant:
                    classes[hashes[name]][values].append(name)
        for left, right in classes.values():
            plain = [
                [n for n in names if not side.is_conversion(n, through)]
                for side, names in ((self.first, left), (self.second, right))
            ]
            for one, other in _in_order(plain[0], plain[1]):
                self.add(self.folded(one, other) if loose else one, other, rule)
            rest = [n for n in left if n not in self.values], [n for n in right if n not in self.taken]
            # Of what conversions made of one value, the last is what the next operator sees.
            for one, other in zip(reversed(rest[0]), reversed(rest[1]), strict=False):
                self.add(one, other, rule)

    def folded(self, one: str, other: str) -> str:
        """Return what an activation makes of a value, where the other side's integers leave it out."""
        scale = self.second_scales.get(other)
        users = self.first.users.get(one, [])
        if scale is None or not scale.starts_at_zero or len(users) != 1:
            return one
        if users[0].op_type not in _ACTIVATIONS:
            return one
        self.folded_away.add(one)
        return users[0].outputs[0]

    def backwards(self, waiting: list[str]) -> None:
        """Rule 3."""
        while waiting:
            one = waiting.pop()
            ours, theirs = self.first.makers[one][0], self.second.makers[self.values[one]][0]
            if _operator_key(ours, loose=False) != _operator_key(theirs, loose=False):
                continue
            pairs = list(zip(ours.inputs, theirs.inputs, strict=False))
            if ours.op_type in _COMMUTATIVE and len(pairs) == 2 == len(theirs.inputs):
                swapped = list(zip(ours.inputs, reversed(theirs.inputs), strict=True))
                if any(self.values.get(a) == b for a, b in swapped if a):
                    pairs = swapped
            waiting += [a for a, b in pairs if a and b and self.add(a, b, "backwards")]

    def by_value(self) -> None:
        """Rule 4."""
        if self.prints is None:
            return
        ours, theirs = self.prints
        by_shape: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for name in self.second.makers:
            if name in theirs and name not in self.taken:
                by_shape[theirs[name].shape].append(name)
        found = []
        for one in self.first.makers:
            if one in self.values or one not in ours:
                continue
            for other in by_shape[ours[one].shape]:
                if other not in self.taken and ours[one].is_near(theirs[other], self.rtol):
                    if self.add(one, other, "value"):
                        found.append(one)
                    break
        self.backwards(found)

    def by_order(self) -> None:
        """Rule 6."""
        for left, right in self.stretches():
            keys = [
                [_operator_of(side.makers[n][0]) for n in names]
                for side, names in ((self.first, left), (self.second, right))
            ]
            matcher = difflib.SequenceMatcher(None, keys[0], keys[1], autojunk=False)
            blocks = matcher.get_matching_blocks()
            pairs = [(left[b.a + i], right[b.b + i]) for b in blocks for i in range(b.size)]
            for one, other in reversed(pairs):
                if self.add(one, other, "order"):
                    self.backwards([one])

    def stretches(self) -> Iterator[tuple[list[str], list[str]]]:
        """Yield what is unmatched on both sides between matched values that are in the same order."""
        anchors = _increasing(
            [(self.first.order[one], self.second.order[other]) for one, other in self.values.items()]
        )
        ours, theirs = list(self.first.order), list(self.second.order)
        borders = [(-1, -1), *anchors, (len(ours), len(theirs))]
        for (a, b), (c, d) in itertools.pairwise(borders):
            left = [n for n in ours[a + 1 : c] if n not in self.values]
            right = [n for n in theirs[b + 1 : d] if n not in self.taken]
            if left and right:
                yield left, right


def _pair_names(ours: Sequence[str], theirs: Sequence[str]) -> dict[str, str]:
    """Pair names that are equal, and the rest by position."""
    pairs = {name: name for name in ours if name in set(theirs)}
    left = [name for name in ours if name not in pairs]
    right = [name for name in theirs if name not in pairs]
    return pairs | dict(zip(left, right, strict=False))


def _in_order(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[str, str]]:
    """Pair values that come about in the same way: those of one name first, the rest in order."""
    both = set(ours) & set(theirs)
    left = [name for name in ours if name not in both]
    right = [name for name in theirs if name not in both]
    return [(name, name) for name in ours if name in both] + list(zip(left, right, strict=False))


def _increasing(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the longest subsequence of pairs in which both numbers grow (patience sorting)."""
    pairs = sorted(pairs)
    tops: list[int] = []
    at: list[int] = []
    before: list[int] = []
    for i, (_, other) in enumerate(pairs):
        place = bisect.bisect_left(tops, other)
        before.append(at[place - 1] if place else -1)
        if place == len(tops):
            tops.append(other)
            at.append(i)
        else:
            tops[place], at[place] = other, i
    found = []
    i = at[-1] if at else -1
    while i >= 0:
        found.append(pairs[i])
        i = before[i]
    return found[::-1]


# Keys ---------------------------------------------------------------------------------------------


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _node_key(node: Node, inputs: list[str], *, loose: bool) -> str:
    if loose and node.op_type in QUANTISED:
        _, places, _ = QUANTISED[node.op_type]
        inputs = [inputs[i] if i < len(inputs) else "" for i in places]
    while inputs and not inputs[-1]:
        inputs = inputs[:-1]
    if node.op_type in _COMMUTATIVE:
        inputs = sorted(inputs)
    return _digest(_operator_key(node, loose=loose), *inputs)


def _operator_of(node: Node) -> str:
    """Return the operator's name, that of its float form for a quantised one."""
    return (
        QUANTISED[node.op_type][0]
        if node.op_type in QUANTISED
        else f"{node.domain}:{node.op_type}".lstrip(":")
    )


def _operator_key(node: Node, *, loose: bool) -> str:
    """Return a key of operator and attributes; those at their defaults do not count."""
    name = _operator_of(node) if loose else f"{node.domain}:{node.op_type}"
    defaults = _defaults(node)
    parts = [
        f"{key}={_value_key(value)}"
        for key, value in sorted(node.attributes.items())
        if not (key in defaults and _is_same(defaults[key], value))
    ]
    return _digest(name, *parts)


def _defaults(node: Node) -> dict[str, Any]:
    try:
        operator = registry.find(node.domain, node.op_type, node.opset)
    except OnnxRefError:
        return {}
    return {name: parameter.default for name, parameter in operator.attributes.items()}


def _is_same(default: Any, value: Any) -> bool:
    if isinstance(default, (int, float, str, tuple)) and isinstance(value, (int, float, str, tuple)):
        return bool(default == value)
    return False


def _value_key(value: Any) -> str:
    match value:
        case np.ndarray() | SparseTensor():
            return _content_key(value)
        case Graph():
            side = _Side(value)
            hashes = side.hashes({}, loose=False, through=())
            return _digest("graph", *(hashes.get(output.name, output.name) for output in value.outputs))
        case tuple():
            return _digest(*map(_value_key, value))
        case _:
            return repr(value)


def _content_key(value: Any) -> str:
    array = _as_array(value)
    if array is None:
        return _digest("constant", repr(value))
    head = f"constant {array.dtype} {array.shape}".encode()
    digest = hashlib.blake2b(head, digest_size=16)
    if array.dtype == np.object_:
        digest.update(repr(array.tolist()).encode("utf-8", "surrogateescape"))
    else:
        digest.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return digest.hexdigest()


def _shape_key(value: Any) -> str:
    array = _as_array(value)
    return "constant" if array is None else f"constant {array.shape}"


def _as_array(value: Any) -> Array | None:
    if isinstance(value, SparseTensor):
        return value.to_dense()
    if isinstance(value, (int, float, str, tuple)):
        return np.asarray(value, dtype=np.object_ if isinstance(value, str) else None)
    return value if isinstance(value, np.ndarray) else None
