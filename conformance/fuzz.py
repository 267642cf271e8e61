"""Differential fuzzing: drawn nodes and chains on several backends, and on the specification's bodies.

Nobody knows what a drawn case should give, so the first backend is compared with each other one. What differs
and is not in `known_disagreements.toml` is shrunk and written as a test folder, with a `verdict.toml` to fill
in.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from rich.console import Console
from rich.table import Table

from ._fuzz_known import Facts, Known, known_disagreements
from .cases import DataSet, write_case
from .compare import compare_outputs
from .errors import FuzzError
from .runner import Reply, RunOptions, Worker
from .values import decode

try:
    import hypothesis
except ImportError as missing:
    raise FuzzError("fuzzing needs hypothesis: pip install 'onnxref[conformance]'") from missing

if TYPE_CHECKING:
    from ._fuzz_models import Trial

BODY = "body"  # the pseudo-backend: the operator's function body, run by onnxref's reference kernels
OPSET = 23
KINDS = ("value", "refusal", "crash")

# What roundings in another order may do; relative to the largest input, for results that cancel.
RTOL, ATOL = 1e-3, 1e-5
ULPS = 8  # for types that are coarser than RTOL


@dataclass(frozen=True, slots=True, kw_only=True)
class FuzzOptions:
    """What to draw and when to stop.

    Attributes:
        operators: names, or `chain`; empty means all, and chains.
        examples: drawn for each operator.
        seconds: for everything together; 0 is no limit.
        refusals: whether one backend's error against another's result is saved too.
    """

    operators: tuple[str, ...] = ()
    examples: int = 50
    seed: int = 0
    seconds: float = 0.0
    opset: int = OPSET
    refusals: bool = False
    run: RunOptions = field(default_factory=lambda: RunOptions(timeout=20.0))


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Two backends that do not agree on a trial.

    Attributes:
        kind: `value`, `refusal` (one result, one error) or `crash` (also a timeout).
        replies: of all backends, by name.
    """

    kind: str
    backends: tuple[str, str]
    message: str
    trial: Trial
    replies: dict[str, Reply]


@dataclass(slots=True)
class Tally:
    """What came of one operator."""

    operator: str
    compared: int = 0
    refused: int = 0
    known: Counter[Known] = field(default_factory=Counter)
    found: Disagreement | None = None


class _DisagreementFoundError(Exception):
    """Tells hypothesis that an example is worth shrinking."""


class Fuzzer:
    """Workers for the backends; use it in a `with` statement."""

    def __init__(
        self, backends: Sequence[str], options: FuzzOptions, known: Sequence[Known] | None = None
    ) -> None:
        self._names = tuple(dict.fromkeys(backends))
        self._options = options
        self._known = known_disagreements() if known is None else tuple(known)
        self._stack = ExitStack()
        self._ends = time.monotonic() + (options.seconds or float("inf"))
        if BODY in self._names:
            raise FuzzError("the bodies are always run; name at least one real backend")
        self._workers: dict[str, Worker] = {}

    def __enter__(self) -> Fuzzer:
        with ExitStack() as stack:
            for name in (*self._names, BODY):
                spec = "numpy" if name == BODY else name
                self._workers[name] = stack.enter_context(Worker(spec, self._options.run))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def expired(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self._ends

    def run(self, operator: str) -> Tally:
        """Fuzz one operator until it disagrees or the examples are used up."""
        from ._fuzz_models import trials

        tally = Tally(operator)
        judged: dict[bytes, Disagreement | None] = {}

        def attempt(trial: Trial) -> None:
            key = _digest(trial)
            if key not in judged:
                # Past the end new cases pass, so that shrinking stops at what it has.
                judged[key] = None if self.expired else self._judge(trial, tally)
            found = judged[key]
            if found is not None:
                tally.found = found
                raise _DisagreementFoundError

        seed = zlib.crc32(operator.encode()) ^ self._options.seed
        test = hypothesis.given(trials(operator, self._options.opset))(attempt)
        test = hypothesis.seed(seed)(_settings(self._options.examples)(test))
        try:
            test()
        except _DisagreementFoundError:
            return tally
        except hypothesis.errors.Unsatisfiable:
            return tally  # the count of compared cases tells
        return tally

    def _judge(self, trial: Trial, tally: Tally) -> Disagreement | None:
        """Run a trial everywhere; return the first disagreement that is to be saved."""
        case = trial.case("test_fuzz")
        replies = {name: self._workers[name].outputs(case) for name in self._names}
        if trial.body is not None:
            replies[BODY] = self._workers[BODY].outputs(trial.case("test_fuzz", trial.body))
        first = self._names[0]
        facts = Facts.of(trial.model, trial.inputs)
        tally.compared += 1
        for other in [name for name in replies if name != first]:
            kind, message = _difference(trial, replies[first], replies[other])
            if not kind:
                continue
            pair = (first, other)
            entry = next((k for k in self._known if k.covers(trial.operator, pair, facts)), None)
            if entry is not None and kind != "crash":
                tally.known[entry] += 1
            elif kind == "refusal" and not self._options.refusals:
                tally.refused += 1
            else:
                return Disagreement(kind, pair, message, trial, replies)
        return None


def _settings(examples: int) -> Any:
    return hypothesis.settings(
        max_examples=examples,
        database=None,  # a seed must give the same examples whatever was found before
        deadline=None,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
        print_blob=False,
    )


def _digest(trial: Trial) -> bytes:
    told = json.dumps(trial.case("test_fuzz").to_json(), sort_keys=True)
    return hashlib.sha256(told.encode()).digest()


def _difference(trial: Trial, one: Reply, other: Reply) -> tuple[str, str]:
    """Return the kind of disagreement and what differs; "" twice where they agree."""
    outcomes = (one["outcome"], other["outcome"])
    if {"crashed", "timeout"} & set(outcomes):
        return "crash", f"{outcomes[0]} against {outcomes[1]}"
    if "unsupported" in outcomes:
        return "", ""
    if outcomes != ("passed", "passed"):
        refusal = next((reply["message"] for reply in (one, other) if reply["outcome"] != "passed"), "")
        return ("", "") if "passed" not in outcomes else ("refusal", refusal)
    message = _compared(trial, _decoded(trial, one), _decoded(trial, other))
    return ("value", message) if message else ("", "")


def _decoded(trial: Trial, reply: Reply) -> list[Any]:
    declared = trial.model.graph.output
    files = [base64.b64decode(text) for text in reply["outputs"]]
    return [decode(data, info.type) for data, info in zip(files, declared, strict=True)]


def _compared(trial: Trial, expected: list[Any], actual: list[Any]) -> str:
    for one, other in zip(expected, actual, strict=True):
        rtol, atol = _tolerances(trial, one)
        message = compare_outputs([one], [other], rtol=rtol, atol=atol).message
        if message:
            return message
    return ""


def _tolerances(trial: Trial, value: Any) -> tuple[float, float]:
    """Floats may round otherwise, everything else is exact."""
    from ._fuzz_models import largest

    if not isinstance(value, np.ndarray) or value.dtype.kind in "biuOU":
        return 0.0, 0.0
    eps = float(ml_dtypes.finfo(value.dtype).eps)  # type: ignore[no-untyped-call]
    rtol = max(RTOL, ULPS * eps)
    return rtol, max(ATOL, ULPS * eps) * max(1.0, largest(trial))


def save(found: Disagreement, out: Path) -> Path:
    """Write a disagreement as a test folder below `out/node`; it expects the first result there is."""
    expected: list[str] = next((r["outputs"] for r in found.replies.values() if r["outcome"] == "passed"), [])
    name = f"test_fuzz_{found.trial.operator.lower()}_{_digest(found.trial).hex()[:8]}"
    case = found.trial.case(name)
    outputs = tuple(base64.b64decode(text) for text in expected)
    filled = replace(case, rtol=RTOL, atol=ATOL, data_sets=(DataSet(case.data_sets[0].inputs, outputs),))
    folder = out / "node" / name
    write_case(filled, folder)
    try:
        (folder / "verdict.toml").write_text(_verdict(found), encoding="utf-8")
    except OSError as error:
        raise FuzzError(f"cannot write to {str(folder)!r}: {error.strerror}") from error
    return folder


def _verdict(found: Disagreement) -> str:
    """Return the page to fill in: who is right, and why."""
    # A JSON string is a TOML string as well.
    lines = [
        f"operator = {json.dumps(found.trial.operator)}",
        f"opset = {found.trial.opset}",
        f"kind = {json.dumps(found.kind)}",
        f"between = {json.dumps(list(found.backends))}",
        f"difference = {json.dumps(found.message)}",
        'who = "?"',
        'why = ""',
    ]
    for name, reply in found.replies.items():
        shown = [repr(value) for value in _decoded(found.trial, reply)] if "outputs" in reply else []
        lines += [
            "",
            "[[result]]",
            f"backend = {json.dumps(name)}",
            f"outcome = {json.dumps(reply['outcome'])}",
        ]
        lines += [f"message = {json.dumps(reply['message'])}", f"outputs = {json.dumps(shown)}"]
    inputs = [repr(value) for value in found.trial.inputs]
    return "\n".join([lines[0], f"inputs = {json.dumps(inputs)}", *lines[1:]]) + "\n"


def fuzz(
    backends: Sequence[str],
    options: FuzzOptions,
    out: Path,
    *,
    known: Sequence[Known] | None = None,
    told: Callable[[Tally, Path | None], None] = lambda tally, folder: None,
) -> list[Tally]:
    """Fuzz operators one after the other, save what disagrees, and return what came of each.

    Raises:
        FuzzError: an operator is unknown or cannot be generated.
    """
    from ._fuzz_models import CHAIN
    from ._fuzz_operators import operators

    possible = [*operators(options.opset), CHAIN]
    for name in options.operators:
        if name not in possible:
            raise FuzzError(f"operator {name!r} cannot be generated at opset {options.opset}")
    tallies = []
    with Fuzzer(backends, options, known) as fuzzer:
        for name in options.operators or possible:
            if fuzzer.expired:
                break
            tally = fuzzer.run(name)
            told(tally, None if tally.found is None else save(tally.found, out))
            tallies.append(tally)
    return tallies


def fuzz_command(backends: Sequence[str], options: FuzzOptions, out: Path) -> bool:
    """Fuzz and print; return whether something was found."""
    console = Console()

    def tell(tally: Tally, folder: Path | None) -> None:
        if tally.found is not None:
            pair = " and ".join(tally.found.backends)
            text = (
                f"{tally.operator}: {pair} ({tally.found.kind}): {tally.found.message}\n  saved as {folder}"
            )
            console.print(text, markup=False, highlight=False, soft_wrap=True)

    tallies = fuzz(backends, options, out, told=tell)
    table = Table("operator", "compared", "known", "refusals", "found", header_style="bold cyan")
    for tally in tallies:
        if tally.found or tally.refused or tally.known or not tally.compared:
            kind = "" if tally.found is None else tally.found.kind
            counts = (tally.compared, tally.known.total(), tally.refused)
            table.add_row(tally.operator, *map(str, counts), kind)
    console.print(table)
    compared = sum(tally.compared for tally in tallies)
    console.print(f"{compared} cases of {len(tallies)} operators compared", highlight=False)
    return any(tally.found for tally in tallies)
