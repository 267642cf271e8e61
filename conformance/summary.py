"""Result files put together: totals, surprises, differences."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from .results import Result, ResultSet, RunInfo

# Which change of a case is for the worse: from an outcome that is right to one that is not.
GOOD = frozenset({"passed", "adjudicated"})

Totals = dict[tuple[str, str], Counter[str]]


@dataclass(frozen=True, slots=True)
class Change:
    """A case whose outcome is not what it was; None where a side does not have the case."""

    backend: str
    case: str
    old: Result | None
    new: Result | None

    @property
    def kind(self) -> str:
        """`worse`, `better`, `other`, `new` or `gone`."""
        if self.old is None:
            return "new"
        if self.new is None:
            return "gone"
        was, now = self.old.outcome in GOOD, self.new.outcome in GOOD
        if was == now:
            return "other"
        return "better" if now else "worse"


def suite_order(suite: str) -> tuple[bool, list[int], str]:
    """Sort key: `official` first, then the releases by their version."""
    version = suite.removeprefix("release-")
    numbers = [int(part) for part in version.split(".") if part.isdecimal()]
    return suite != "official", numbers, suite


def backends_of(found: ResultSet) -> list[str]:
    """Return the backends in the order of their first run."""
    names = [run.backend for run in found.runs.values()] + [backend for backend, _ in found.results]
    return list(dict.fromkeys(names))


def newest_runs(found: ResultSet) -> list[RunInfo]:
    """Return the last run of each backend."""
    return list({run.backend: run for run in found.runs.values()}.values())


def suites_of(found: ResultSet) -> list[str]:
    """Return the suites, the official one first."""
    return sorted({result.suite for result in found.results.values()}, key=suite_order)


def totals(found: ResultSet) -> Totals:
    """Count outcomes by backend and suite."""
    counts: Totals = defaultdict(Counter)
    for result in found.results.values():
        counts[result.backend, result.suite][result.outcome] += 1
    return dict(counts)


def totals_by_type(found: ResultSet) -> Totals:
    """Count outcomes by backend and element type; cases of which no type is known are left out.

    Sequences, optionals and maps (`optional_seq_tensor_float`) count for the type of what they hold.
    """
    counts: Totals = defaultdict(Counter)
    for result in found.results.values():
        if result.type:
            counts[result.backend, result.type.rpartition("_")[2]][result.outcome] += 1
    return dict(counts)


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of a suite a backend ran as native code.

    Attributes:
        told: cases of which the backend told it: it loaded and ran them.
        some: cases of which at least one node was native; for a case of one node, the node itself.
        whole: cases of which every node was.
        wrong: cases of `some` that are not right.
    """

    told: int
    some: int
    whole: int
    wrong: int


def coverages(found: ResultSet) -> dict[tuple[str, str], Coverage]:
    """Return the share of native code by backend and suite, for backends that tell it."""
    told: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in found.results.values():
        if result.nodes:
            told[result.backend, result.suite].append(result)
    return {
        key: Coverage(
            len(results),
            sum(r.native > 0 for r in results),
            sum(r.native == r.nodes for r in results),
            sum(r.native > 0 and r.outcome not in GOOD for r in results),
        )
        for key, results in told.items()
    }


@dataclass(frozen=True, slots=True)
class Point:
    """What one results file says of one backend."""

    date: str
    versions: dict[str, str]
    outcomes: Counter[str]


def trend(sets: Sequence[ResultSet]) -> dict[str, list[Point]]:
    """Return each backend's points by date; backends that fewer than two of the sets have are left out."""
    points: dict[str, list[Point]] = defaultdict(list)
    for found in sets:
        for run in newest_runs(found):
            counted = Counter(r.outcome for r in found.results.values() if r.backend == run.backend)
            points[run.backend].append(Point(run.date, run.versions, counted))
    return {
        backend: sorted(several, key=lambda point: point.date)
        for backend, several in points.items()
        if len(several) > 1
    }


def operator_name(result: Result) -> str:
    """Return the operator with its domain in front, unless that is ai.onnx."""
    return f"{result.domain}.{result.operator}" if result.domain else result.operator


def surprises(found: ResultSet) -> list[Result]:
    """Return the cases that pass although their expectation was found to be wrong."""
    return [r for r in found.results.values() if r.adjudicated and r.outcome == "passed"]


def differences(old: ResultSet, new: ResultSet) -> list[Change]:
    """Return the cases whose outcome changed; backends that only one side has are left out."""
    both = set(backends_of(old)) & set(backends_of(new))
    changes = []
    for key in dict.fromkeys([*old.results, *new.results]):
        before, after = old.results.get(key), new.results.get(key)
        same = before is not None and after is not None and before.outcome == after.outcome
        if key[0] in both and not same:
            changes.append(Change(key[0], key[1], before, after))
    order = ("worse", "other", "better", "gone", "new")
    return sorted(changes, key=lambda c: (order.index(c.kind), c.backend, c.case))


def regressions(baseline: ResultSet, found: ResultSet) -> list[Change]:
    """Return the cases that were right in the baseline and are not now; cases not run now do not count."""
    return [change for change in differences(baseline, found) if change.kind == "worse"]
