"""Which optimisation makes a model diverge: of our planner's passes, or of ONNX Runtime's optimisers.

How it is found
    1. The model as it is optimised by default is compared with a golden runner. If they agree, that is all.
    2. With everything switched off it must agree, or else a kernel is at fault and no optimisation.
    3. ONNX Runtime: the lowest level that diverges is looked for, and its log says which optimisers changed
       the model; only those are candidates.
    4. Each candidate is switched off alone. Where no single one makes the divergence vanish, a smallest set
       is looked for: parts of it are left out as long as the rest is enough.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError, OnnxRefError
from ..graph import Model
from ..limits import DEFAULT, Limits
from ..model import load_model, save_model, to_proto
from ..plan.passes import all_passes
from ..plan.specialize import LAYOUTS
from ..session import InferenceSession
from ._errors_between import Errors, Tolerance, errors_between
from ._html import html_table
from ._ort import LEVELS, _options, _reported, _run, runtime
from ._runners import Feeds, open_runner
from ._stats import json_number, short

# The log names these rules of ONNX Runtime only together; they are switched off one by one.
_RULES = {
    "Level1_RuleBasedTransformer": (
        "CastChainElimination",
        "CastElimination",
        "ClipQuantRewrite",
        "ConvAddFusion",
        "ConvBNFusion",
        "ConvMulFusion",
        "DivMulFusion",
        "EliminateDropout",
        "EliminateIdentity",
        "EliminateSlice",
        "ExpandElimination",
        "FuseReluClip",
        "GemmSumFusion",
        "GemmTransposeFusion",
        "LabelEncoderFusion",
        "MatMul_BatchNormalization_Fusion",
        "NoopElimination",
        "NotWhereFusion",
        "Pad_Fusion",
        "PreShapeNodeElimination",
        "ReluQuantRewrite",
        "UnsqueezeElimination",
    ),
}
_LOG_SCRIPT = """\
import sys, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 0
level = getattr(onnxruntime.GraphOptimizationLevel, sys.argv[2])
options.graph_optimization_level = level
onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
"""
_LOG_SECONDS = 300
_MOST_SHOWN = 4

Verdict = Literal["agrees", "diverges", "fails"]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run with some optimisations switched off.

    Attributes:
        off: what was switched off; a level of ONNX Runtime is written `level basic`.
        verdict: `fails` where the run ended in an error.
        output: the output that is farthest off.
        difference: how far, or the error, in words.
        absolute: largest absolute difference; None where nothing can be measured.
    """

    off: tuple[str, ...]
    verdict: Verdict
    output: str = ""
    difference: str = ""
    absolute: float | None = None

    @property
    def label(self) -> str:
        """What was switched off, in a few words."""
        if len(self.off) > _MOST_SHOWN:
            return f"{self.off[0]} and {len(self.off) - 1} others"
        return ", ".join(self.off) or "nothing"

    @property
    def off_by(self) -> str:
        """How far off it is, in a few characters; in words where that cannot be measured."""
        return self.difference if self.absolute is None else short(self.absolute)

    def to_json(self) -> dict[str, Any]:
        """Return the trial as plain data for `json.dumps`."""
        return {
            "off": list(self.off),
            "verdict": self.verdict,
            "output": self.output,
            "difference": self.difference,
            "absolute": json_number(self.absolute),
        }


@dataclass(frozen=True, slots=True)
class Bisection:
    """What was found out about a divergence.

    Attributes:
        diverges: whether there is any.
        level: the lowest of ONNX Runtime's levels that diverges; empty for other backends.
        culprits: sets of optimisations; switching off any one set makes the divergence vanish.
        trials: every run, in order.
        summary: the result as a sentence.
    """

    backend: str
    against: str
    diverges: bool
    level: str
    culprits: tuple[tuple[str, ...], ...]
    trials: tuple[Trial, ...]
    summary: str

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data for `json.dumps`."""
        return {
            "backend": self.backend,
            "against": self.against,
            "diverges": self.diverges,
            "level": self.level,
            "culprits": [list(names) for names in self.culprits],
            "summary": self.summary,
            "trials": [trial.to_json() for trial in self.trials],
        }

    def __str__(self) -> str:
        lines = [f"{t.verdict:9} without {t.label}: {t.difference}" for t in self.trials]
        return "\n".join([*lines, self.summary])

    def rows(self) -> list[list[str]]:
        """Return a table row for each trial."""
        return [[t.label, t.verdict, t.output, t.off_by] for t in self.trials]

    def _repr_html_(self) -> str:
        columns = ("switched off", "verdict", "output", "off by")
        return html_table(self.rows(), columns, title=self.summary)


def bisect(
    model: Any,
    feeds: Any,
    backend: str = "numba",
    against: Any = "numpy",
    *,
    tolerance: Tolerance | None = None,
    limits: Limits | None = None,
    progress: Callable[[Trial], None] | None = None,
) -> Bisection:
    """Find the optimisation whose switching off makes a divergence vanish.

    Args:
        model: as for `onnxref.run`.
        feeds: inputs by name.
        backend: `numba`, whose passes are bisected, or `onnxruntime`, whose levels and optimisers are.
        against: the golden side: what `open_runner` takes, such as `numpy` or `onnxruntime:disabled`.
        progress: told of every trial.

    Raises:
        InputError: the backend has no optimisations that could be switched off.
        BackendError, NodeError: the golden side fails.
    """
    if backend not in ("numba", "onnxruntime"):
        raise InputError(f"only numba and onnxruntime can be bisected (got {backend!r})")
    loaded = load_model(model, limits or DEFAULT)
    search = _Search(loaded, feeds, backend, against, tolerance or Tolerance(), limits, progress)
    return search.ours() if backend == "numba" else search.onnxruntime()


class _Search:
    """The state of one bisection."""

    def __init__(
        self,
        model: Model,
        feeds: Any,
        backend: str,
        against: Any,
        tolerance: Tolerance,
        limits: Limits | None,
        progress: Callable[[Trial], None] | None,
    ) -> None:
        self.model = model
        self.feeds = feeds
        self.backend = backend
        self.tolerance = tolerance
        self.limits = limits
        self.progress = progress
        self.trials: list[Trial] = []
        self.golden = run_on(against, model, feeds, limits=limits)
        self.against = against if isinstance(against, str) else getattr(against, "label", "golden")

    def ours(self) -> Bisection:
        names = [*all_passes(), *LAYOUTS]
        if self.trial(()).verdict == "agrees":
            return self.result(f"{self.backend} agrees with {self.against}")
        if self.trial(names).verdict != "agrees":
            return self.result(
                f"no pass is at fault: {self.backend} diverges from {self.against} without any of them"
            )
        return self.named(self.culprits(names, self.trial))

    def onnxruntime(self) -> Bisection:
        if self.trial((), level="all").verdict == "agrees":
            return self.result(f"onnxruntime agrees with {self.against}")
        level = "all"
        for lower in LEVELS:
            if lower == "all" or self.trial((f"above level {lower}",), level=lower).verdict != "agrees":
                level = lower
                break
        if level == "disabled":
            return self.result(
                f"no optimiser is at fault: onnxruntime diverges from {self.against} without any of them"
            )
        names = optimizers_used(self.model, level)

        def trial(off: Sequence[str]) -> Trial:
            return self.trial(off, level=level)

        if not names or trial(names).verdict != "agrees":
            return self.result(
                f"onnxruntime diverges from {self.against} from level {level} on, and none of the optimisers "
                "that can be switched off is at fault",
                level=level,
            )
        return self.named(self.culprits(names, trial), level)

    def named(self, culprits: Sequence[tuple[str, ...]], level: str = "") -> Bisection:
        shown = ", or ".join(" and ".join(names) for names in culprits)
        where = f" (level {level})" if level else ""
        return self.result(
            f"{self.backend} diverges from {self.against}; switching off {shown}{where} makes it agree",
            level=level,
            culprits=culprits,
        )

    def result(self, summary: str, *, level: str = "", culprits: Sequence[tuple[str, ...]] = ()) -> Bisection:
        diverges = self.trials[0].verdict != "agrees"
        return Bisection(
            self.backend, self.against, diverges, level, tuple(culprits), tuple(self.trials), summary
        )

    def culprits(
        self, names: Sequence[str], trial: Callable[[Sequence[str]], Trial]
    ) -> list[tuple[str, ...]]:
        """Return every single name that is enough to switch off; else one smallest set."""
        single: list[tuple[str, ...]] = [(name,) for name in names if trial((name,)).verdict == "agrees"]
        return single or [smallest(tuple(names), lambda off: trial(off).verdict == "agrees")]

    def trial(self, off: Sequence[str], *, level: str = "") -> Trial:
        try:
            if self.backend == "numba":
                found = run_on("numba", self.model, self.feeds, without=off, limits=self.limits)
            else:
                found = run_onnxruntime(self.model, self.feeds, level, _no_levels(off))
        except OnnxRefError as error:
            made = Trial(tuple(off), "fails", difference=f"{type(error).__name__}: {error}")
        else:
            name, errors = worst(self.golden, found, self.tolerance)
            made = Trial(
                tuple(off), "agrees" if errors.passed else "diverges", name, str(errors), errors.absolute
            )
        self.trials.append(made)
        if self.progress is not None:
            self.progress(made)
        return made


def _no_levels(off: Sequence[str]) -> list[str]:
    return [name for name in off if not name.startswith("above level ")]


def smallest(names: tuple[str, ...], works: Callable[[tuple[str, ...]], bool]) -> tuple[str, ...]:
    """Return a subset that works and of which nothing can be left out; `names` is known to work."""
    size = max(len(names) // 2, 1)
    while True:
        for start in range(0, len(names), size):
            rest = names[:start] + names[start + size :]
            if rest and works(rest):
                names = rest
                break
        else:
            if size == 1:
                return names
        size = max(min(size, len(names)) // 2, 1)


# Sides --------------------------------------------------------------------------------------------


def run_on(
    backend: Any, model: Model, feeds: Any, *, without: Collection[str] = (), limits: Limits | None = None
) -> dict[str, Any]:
    """Return the outputs of a model on a runner.

    Args:
        backend: what `open_runner` takes. ONNX Runtime really runs the model as it was optimised, by its
            own fused kernels.
        without: passes to leave out, for `numba`.

    Raises:
        OnnxRefError: the model fails there.
    """
    names = [value.name for value in model.graph.outputs]
    word = backend if isinstance(backend, str) else ""
    if word.partition(":")[0] == "onnxruntime":
        return run_onnxruntime(model, feeds, word.partition(":")[2] or "all")
    if word in ("numba", "auto"):
        session = InferenceSession(model, backend="numba", without=without, limits=limits)
        session.run(None, feeds)  # the first run learns the shapes on the reference kernels
        return session.run_named(None, feeds)
    if word == "numpy":
        return InferenceSession(model, backend="numpy", optimize="none", limits=limits).run_named(None, feeds)
    return open_runner(backend, model, limits=limits or DEFAULT).fetch(feeds, names)


def run_onnxruntime(
    model: Model, feeds: Feeds, level: str = "all", disabled: Collection[str] = ()
) -> dict[str, Any]:
    """Return the outputs of ONNX Runtime at a level, without some of its optimisers.

    Raises:
        BackendError: it cannot load or run the model, or has no such level.
        MissingDependencyError: it is not installed.
    """
    if level not in LEVELS:
        raise InputError(f"onnxruntime has no level {level!r}; choose from {', '.join(LEVELS)}")
    with tempfile.TemporaryDirectory() as folder, _reported("cannot load the model"):
        session = runtime().InferenceSession(
            _source(model, Path(folder)),
            _options(level),
            providers=["CPUExecutionProvider"],
            disabled_optimizers=sorted(disabled),
        )
    needed = {v.name for v in (*session.get_inputs(), *session.get_overridable_initializers())}
    given = {name: value for name, value in feeds.items() if name in needed}
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, _run(session, given), strict=True))


def _source(model: Model, folder: Path) -> Any:
    """Return what ONNX Runtime loads: bytes, or the path of a large model."""
    if sum(array.nbytes for array in model.graph.initializers.values()) < 1 << 30:
        return to_proto(model).SerializeToString()
    save_model(model, folder / "model.onnx")
    return str(folder / "model.onnx")


def optimizers_used(model: Model, level: str = "all") -> list[str]:
    """Return the names of ONNX Runtime's optimisers that change a model, as its log tells them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path)
        name = f"ORT_ENABLE_{level.upper()}"
        command = [sys.executable, "-P", "-c", _LOG_SCRIPT, str(path), name]
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LOG_SECONDS)
    changed = re.findall(r"GraphTransformer (\w+) modified: 1", found.stdout + found.stderr)
    names: dict[str, None] = {}
    for one in changed:
        names.update(dict.fromkeys(_RULES.get(one, (one,))))
    return list(names)


def worst(golden: Mapping[str, Any], found: Mapping[str, Any], tolerance: Tolerance) -> tuple[str, Errors]:
    """Return the output that is farthest off, and how far."""
    measured = {name: errors_between(value, found.get(name), tolerance) for name, value in golden.items()}
    if not measured:
        return "", Errors()
    name = min(measured, key=lambda n: (measured[n].passed, measured[n].snr))
    return name, measured[name]
