"""Which values of a run are meant: by glob of their paths, by operator type, by node.

A path is where a value or node is, and its name: `y` in the main graph, `loop[3]/body/y` in the third call
of a loop's body, `if/then_branch/y`, or `caller/y` in a function. In a pattern `*` stands for any text,
`/` included, and `?` for one character; brackets stand for themselves, because paths have them. A pattern
is compared with the path as a whole, and with the name alone, which so is found at any depth.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn, TypeAlias

from ..errors import OutputError
from ..graph import Graph, Model, Node, subgraphs

Patterns: TypeAlias = str | Sequence[str] | None

_MOST_NAMED = 6  # names in a message


@dataclass(frozen=True)
class Selection:
    """The values that one of `values` names, made by a node that `op_types` and `nodes` allow.

    Attributes:
        values: patterns for paths or names of values.
        op_types: patterns for operator types, `Conv` or `ai.onnx.ml:Scaler`; None allows all.
        nodes: patterns for paths or names of nodes, `Op#position` for those without a name; None allows all.
    """

    values: tuple[str, ...] = ("*",)
    op_types: tuple[str, ...] | None = None
    nodes: tuple[str, ...] | None = None

    @classmethod
    def of(cls, values: Patterns = "*", op_types: Patterns = None, nodes: Patterns = None) -> Selection:
        """Return a selection from one pattern, several, or None for all."""
        return cls(_patterns(values) or ("*",), _patterns(op_types), _patterns(nodes))

    @property
    def takes_given(self) -> bool:
        """Whether values that no node makes, inputs and initializers, can be meant."""
        return self.op_types is None and self.nodes is None

    def wants_node(self, scope: str, node: Node) -> bool:
        """Return whether values of this node can be meant."""
        if self._op_types is not None:
            full = f"{node.domain or 'ai.onnx'}:{node.op_type}"
            if not (self._op_types.fullmatch(node.op_type) or self._op_types.fullmatch(full)):
                return False
        if self._nodes is None:
            return True
        label = node.label
        return bool(self._nodes.fullmatch(scope + label) or self._nodes.fullmatch(label))

    def wants_value(self, scope: str, name: str) -> bool:
        """Return whether a value of this name is meant."""
        pattern = self._values
        return pattern is None or bool(pattern.fullmatch(scope + name) or pattern.fullmatch(name))

    def nothing_found(self, model: Model, hint: str = "") -> NoReturn:
        """Say that a run made nothing of this, and what there is.

        Args:
            hint: why that may be, at the end of the message.

        Raises:
            OutputError: always.
        """
        nodes = [node for node in _all_nodes(model) if node.op_type != "Constant" or node.domain]
        if self.op_types is not None and not self._matches(self.op_types, {n.op_type for n in nodes}):
            counts = Counter(node.op_type for node in nodes)
            known = ", ".join(f"{op} ({count})" for op, count in counts.most_common())
            text = f"no node that was run is a {_shown(self.op_types)}; the model has {known}"
        elif self.nodes is not None:
            near = _near(self.nodes, [node.label for node in nodes])
            text = f"no node that was run matches {_shown(self.nodes)}; {near}"
        else:
            near = _near(self.values, [name for node in nodes for name in node.outputs if name])
            text = f"no value that was made matches {_shown(self.values)}; {near}"
        raise OutputError(text + hint)

    def _matches(self, patterns: Sequence[str], names: Iterable[str]) -> bool:
        compiled = _compile(patterns)
        return any(compiled.fullmatch(name) for name in names)

    @cached_property
    def _values(self) -> re.Pattern[str] | None:
        return None if "*" in self.values else _compile(self.values)

    @cached_property
    def _op_types(self) -> re.Pattern[str] | None:
        return None if self.op_types is None else _compile(self.op_types)

    @cached_property
    def _nodes(self) -> re.Pattern[str] | None:
        return None if self.nodes is None else _compile(self.nodes)


def matches(patterns: Patterns, name: str) -> bool:
    """Return whether one of the patterns matches a path or name; None matches everything."""
    found = _patterns(patterns)
    return found is None or _compile(found).fullmatch(name) is not None


def _patterns(given: Patterns) -> tuple[str, ...] | None:
    if given is None:
        return None
    return (given,) if isinstance(given, str) else tuple(given)


def _compile(patterns: Sequence[str]) -> re.Pattern[str]:
    wild = {"*": ".*", "?": "."}
    texts = ("".join(wild.get(char) or re.escape(char) for char in pattern) for pattern in patterns)
    return re.compile("|".join(f"(?:{text})" for text in texts), re.DOTALL)


def _all_nodes(model: Model) -> Iterator[Node]:
    yield from _inside(model.graph)
    for function in model.functions.values():
        yield from _walk(function.nodes)


def _inside(graph: Graph) -> Iterator[Node]:
    yield from _walk(graph.nodes)


def _walk(nodes: Iterable[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        for graph in subgraphs(node).values():
            yield from _inside(graph)


def _shown(patterns: Sequence[str]) -> str:
    return " or ".join(repr(pattern) for pattern in patterns)


def _near(patterns: Sequence[str], names: Sequence[str]) -> str:
    close = [n for pattern in patterns for n in difflib.get_close_matches(pattern, names, _MOST_NAMED, 0.5)]
    shown = list(dict.fromkeys(close or names))
    listed = ", ".join(repr(name) for name in shown[:_MOST_NAMED]) or "none"
    more = f" and {len(shown) - _MOST_NAMED} more" if len(shown) > _MOST_NAMED else ""
    return f"{'the nearest are' if close else 'there are'} {listed}{more}"
