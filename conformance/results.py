"""Results on disk: JSON lines, appended as they come, so that a run that ends early loses nothing.

{"kind": "run", "run": "7f3a...", "backend": "numpy", "versions": {...}, "date": "...", "machine": {...}}
{"kind": "case", "run": "7f3a...", "backend": "numpy", "suite": "official", "case": "test_abs", ...}
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import platform
import uuid
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from .errors import ResultsError

# Outcomes, best first. A case counts by its own outcome; a group of cases shows its worst.
OUTCOMES = (
    "passed",
    "adjudicated",  # differs, and the expectation has been found to contradict the specification
    "unsupported",  # the backend says that it does not implement it
    "broken",  # the case's own files cannot be read
    "failed",  # ran, and something else came out
    "error",  # raised an exception
    "timeout",
    "crashed",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """One run of one backend: what it ran on."""

    run: str
    backend: str
    versions: dict[str, str]
    date: str
    machine: dict[str, Any]

    @classmethod
    def now(cls, backend: str, versions: dict[str, str]) -> Self:
        """Return the header of a run that starts now, on this machine."""
        machine = {
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
        }
        date = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(run=uuid.uuid4().hex[:12], backend=backend, versions=versions, date=date, machine=machine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one case on one backend.

    Attributes:
        max_ulp, max_abs: as of `compare.Comparison`; None where nothing was compared.
        adjudicated: whether the case's expectation has been found wrong; a pass is then worth a look.
        was: the outcome that "adjudicated" stands for, else "".
        type: the element type that the case tests; "" also in files that are older than this field.
        nodes, native: nodes of the model, and those of them that ran as native code; 0 for backends that do
            not tell.
    """

    run: str
    backend: str
    suite: str
    group: str
    case: str
    operator: str
    domain: str
    opset: int
    outcome: str
    message: str = ""
    max_ulp: float | None = None
    max_abs: float | None = None
    seconds: float = 0.0
    adjudicated: bool = False
    was: str = ""
    type: str = ""
    nodes: int = 0
    native: int = 0

    @property
    def id(self) -> str:
        """The case's name among all suites."""
        return f"{self.suite}/{self.group}/{self.case}"


@dataclass(slots=True)
class ResultSet:
    """Runs by their identifier, and the newest result of each backend and case."""

    runs: dict[str, RunInfo] = field(default_factory=dict)
    results: dict[tuple[str, str], Result] = field(default_factory=dict)

    def add(self, item: RunInfo | Result) -> None:
        if isinstance(item, RunInfo):
            self.runs[item.run] = item
        else:
            self.results[item.backend, item.id] = item

    def update(self, other: ResultSet) -> None:
        """Add all of another set; its results win."""
        self.runs.update(other.runs)
        self.results.update(other.results)

    def finished(self, backend: str, versions: dict[str, str]) -> set[str]:
        """Return the cases that have a result of this backend at these versions."""
        runs = {run.run for run in self.runs.values() if (run.backend, run.versions) == (backend, versions)}
        return {case for (_, case), result in self.results.items() if result.run in runs}


def load_results(*paths: Path) -> ResultSet:
    """Read result files, also gzipped ones; the last word on a backend and case counts.

    A last line that was cut off is left out: a run that is killed leaves one.

    Raises:
        ResultsError: a file cannot be read, or holds something else.
    """
    found = ResultSet()
    for path in paths:
        try:
            data = path.read_bytes()
            text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode(errors="replace")
        except (OSError, EOFError, zlib.error) as error:
            raise ResultsError(f"cannot read the results in {str(path)!r}: {error}") from error
        *lines, rest = text.split("\n")
        for number, line in enumerate(lines, start=1):
            if line.strip():
                found.add(_parse(line, f"{path}:{number}"))
        if rest.strip():
            try:
                found.add(_parse(rest, str(path)))
            except ResultsError:
                continue  # the line that was being written when the run ended
    return found


def _parse(line: str, where: str) -> RunInfo | Result:
    try:
        facts = json.loads(line)
        kind = facts.pop("kind")
        if kind not in ("run", "case"):
            raise ValueError(f"its kind is {kind!r}")
        return RunInfo(**facts) if kind == "run" else Result(**facts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"{where} is no line of a results file: {error}") from error


class ResultsWriter:
    """Appends to a results file, one flushed line at a time; use it in a `with` statement."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _drop_half_line(path)
            self._file: IO[bytes] = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise ResultsError(f"cannot write results to {str(path)!r}: {error.strerror}") from error

    def write(self, item: RunInfo | Result) -> None:
        """Append one line; the disk has it when this returns.

        Raises:
            ResultsError: the disk is full or gone. What was written before stays readable.
        """
        kind = "run" if isinstance(item, RunInfo) else "case"
        data = (json.dumps({"kind": kind} | _told(item), allow_nan=False) + "\n").encode()
        try:
            while data:  # a disk that fills up takes a part of the line first
                data = data[self._file.write(data) :]
        except OSError as error:
            kept = f"the {self._written} lines before are kept; --resume goes on from there"
            raise ResultsError(
                f"cannot write results to {str(self._path)!r}: {error.strerror}; {kept}"
            ) from error
        self._written += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _told(item: RunInfo | Result) -> dict[str, Any]:
    """Return the fields that are not at their default."""
    fields = {field.name: field.default for field in dataclasses.fields(item)}
    return {name: value for name, value in dataclasses.asdict(item).items() if value != fields[name]}


def _drop_half_line(path: Path) -> None:
    """Cut off a line that an earlier run left without its end, so that the next one starts cleanly."""
    if not path.is_file():
        return
    with open(path, "r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
