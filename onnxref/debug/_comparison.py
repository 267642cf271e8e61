"""What a comparison of two runs found: verdicts, and the errors of every value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ._errors_between import Errors
from ._html import html_table
from ._stats import short


class Verdict(StrEnum):
    """What the errors of a node say about it."""

    agrees = "agrees"
    wrong = "wrong"  # its local error is beyond the tolerance
    inherited = "inherited"  # its inputs differ already; the node itself agrees
    amplified = (
        "amplified"  # inputs and node agree within the tolerance, the output of the whole run does not
    )
    differs = "differs"  # beyond the tolerance, and the local error is not known
    random = "random"  # the node draws random numbers: nothing to compare
    unseen = "unseen"  # the other side has no such value


_SHOWN = 20  # nodes that a comparison prints

FAILURES = frozenset({Verdict.wrong, Verdict.inherited, Verdict.amplified, Verdict.differs})


@dataclass(frozen=True, slots=True)
class ValueComparison:
    """One output of a node on both sides.

    Attributes:
        name: on the golden side, with the scope in front.
        counterpart: on the other side; None where it has none.
        cumulative: between two whole runs; None where the other side does not have the value.
        local: of the node alone; None where that was not asked for or not possible.
        note: why an error is missing.
    """

    name: str
    counterpart: str | None = None
    cumulative: Errors | None = None
    local: Errors | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain data for `json.dumps`."""
        errors = {"cumulative": self.cumulative, "local": self.local}
        return {
            "name": self.name,
            "counterpart": self.counterpart,
            **{kind: None if found is None else found.to_json() for kind, found in errors.items()},
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class NodeComparison:
    """One executed node of the golden side, and what became of it on the other.

    Attributes:
        merged: paths of nodes that the other side merged into this one, so that its local error is that of
            all of them; only given where the node fails.
    """

    path: str
    op_type: str
    verdict: Verdict
    outputs: tuple[ValueComparison, ...]
    merged: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether an error is beyond the tolerance."""
        return self.verdict in FAILURES

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain data for `json.dumps`."""
        return {
            "node": self.path,
            "op_type": self.op_type,
            "verdict": self.verdict.value,
            "outputs": [value.to_json() for value in self.outputs],
            "merged": list(self.merged),
        }

    def _with_merged(self) -> str:
        return f", with {', '.join(self.merged)}" if self.merged else ""

    def cells(self) -> list[str]:
        """Return the cells of a table's row: node, operator, verdict, local and cumulative error, where."""
        worst = min(self.outputs, key=_badness, default=None)
        if worst is None:
            return [self.path, self.op_type, self.verdict.value, "", "", "", ""]
        cumulative = _summary(worst.cumulative) if worst.cumulative else worst.note
        shown = worst.local if self.verdict is Verdict.wrong else worst.cumulative
        return [
            self.path,
            self.op_type,
            self.verdict.value + self._with_merged(),
            _summary(worst.local),
            cumulative,
            "" if shown is None else short(shown.snr),
            _place(worst.name, shown),
        ]

    def __str__(self) -> str:
        lines = [f"{self.path} ({self.op_type}): {self.verdict.value}{self._with_merged()}"]
        for value in self.outputs:
            for kind, errors in (("local", value.local), ("cumulative", value.cumulative)):
                if errors is not None:
                    lines.append(f"  {value.name}, {kind}: {errors}")
            if value.note:
                lines.append(f"  {value.name}: {value.note}")
        return "\n".join(lines)


COLUMNS = ("node", "operator", "verdict", "local error", "cumulative error", "SNR (dB)", "worst element")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every node of a run, compared with another run.

    Attributes:
        golden, other: names of the sides.
        nodes: in the order of execution.
        stopped: whether the comparison ended at the first node that failed.
        problem: why the other side could not run as a whole; then there are local errors only.
        rules: how many values of two different models were found by which rule.
    """

    golden: str
    other: str
    nodes: tuple[NodeComparison, ...]
    stopped: bool = False
    problem: str = ""
    rules: Mapping[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no error is beyond the tolerance."""
        return not any(node.failed for node in self.nodes)

    @property
    def first(self) -> NodeComparison | None:
        """The first node that fails, None if none does."""
        return next((node for node in self.nodes if node.failed), None)

    @property
    def wrong(self) -> tuple[NodeComparison, ...]:
        """The nodes that are wrong themselves."""
        return tuple(node for node in self.nodes if node.verdict is Verdict.wrong)

    @property
    def counts(self) -> dict[str, int]:
        """How many nodes have which verdict."""
        found = Counter(node.verdict.value for node in self.nodes)
        return {verdict.value: found[verdict.value] for verdict in Verdict if found[verdict.value]}

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain data for `json.dumps`."""
        return {
            "golden": self.golden,
            "other": self.other,
            "passed": self.passed,
            "stopped": self.stopped,
            "problem": self.problem,
            "counts": self.counts,
            "rules": dict(self.rules),
            "first": None if self.first is None else self.first.path,
            "wrong": [node.path for node in self.wrong],
            "nodes": [node.to_json() for node in self.nodes],
        }

    @property
    def title(self) -> str:
        """What was compared, and how it went, in a line or two."""
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self.counts.items()) or "no nodes"
        text = f"{self.other} against {self.golden}: {counts}"
        if self.stopped:
            text += "; stopped at the first that failed"
        if self.rules:
            text += "; values aligned: " + ", ".join(f"{n} {rule}" for rule, n in self.rules.items())
        if self.problem:
            text += f"; {self.other} cannot run as a whole ({self.problem}), so there are local errors only"
        return text

    def rows(self, *, every: bool = False) -> list[list[str]]:
        """Return the rows of a table: of the nodes that fail, or of every node."""
        return [node.cells() for node in self.nodes if every or node.failed]

    def __str__(self) -> str:
        failed = [node for node in self.nodes if node.failed]
        lines = [self.title, *(str(node) for node in failed[:_SHOWN])]
        if len(failed) > _SHOWN:
            lines.append(f"and {len(failed) - _SHOWN} more nodes that fail")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return html_table(self.rows(every=True), COLUMNS, title=self.title)


def _badness(value: ValueComparison) -> tuple[bool, float]:
    found = [errors for errors in (value.local, value.cumulative) if errors is not None]
    return all(errors.passed for errors in found), min((errors.snr for errors in found), default=0.0)


def _summary(errors: Errors | None) -> str:
    if errors is None:
        return ""
    if errors.message:
        return errors.message
    if not errors.absolute and not errors.beyond:
        return "0"
    ulp = "" if errors.ulp is None else f", {short(errors.ulp)} ulp"
    return f"{short(errors.absolute)} ({short(errors.relative)}{ulp})"


def _place(name: str, errors: Errors | None) -> str:
    if errors is None or errors.where is None:
        return name
    at = ", ".join(map(str, errors.where))
    return f"{name}[{at}]: {short(errors.value)} instead of {short(errors.golden)}"
