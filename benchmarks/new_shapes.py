"""Runs with shapes that a session has not met: images of other sizes, a cache that grows by one token.

Every side meets the shapes in the same order, in turn; the median over the new ones counts. The first few
runs of all have one shape, so that each side has planned, and compiled, for another shape before. What
native code new shapes want besides is compiled within their time, unless an earlier process has kept it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import report
from rows import Feeds, Folders, Row, all_rows

SIDES = ("onnxruntime", "onnxref, backend numba", "onnxref, backend auto")
FAMILIAR = 30  # runs with one shape before: "auto" has compiled by then
PAUSE = 0.08  # seconds of silence before each run, see README.md


@dataclass(frozen=True)
class Case:
    """A row of the benchmark, and inputs of other shapes than its own.

    Attributes:
        varied: makes inputs of the n-th new shape from the row's own.
        count: new shapes.
    """

    title: str
    row: str
    varied: Callable[[Feeds, int], Feeds]
    count: int


def _resized(feeds: Feeds, n: int) -> Feeds:
    """An image of another height and width, multiples of 32."""
    height, width = 320 + 32 * (n % 7), 320 + 32 * (n * 3 % 8) + 32 * (n // 7)
    return {name: np.resize(x, (1, 3, height, width)) for name, x in feeds.items()}


def _widened(feeds: Feeds, n: int) -> Feeds:
    """A line of text of another width."""
    return {name: np.resize(x, (1, 3, 48, 160 + 23 * n)) for name, x in feeds.items()}


def _longer(feeds: Feeds, n: int) -> Feeds:
    """A cache with n + 1 more tokens."""

    def grown(name: str, x: Any) -> Any:
        if name.startswith("past"):
            return np.concatenate([x, x[:, :, : n + 1]], axis=2)
        return x + n + 1 if name == "position_ids" else x

    return {name: grown(name, x) for name, x in feeds.items()}


CASES = (
    Case("ocr detection, images of new sizes", "ocr detection", _resized, 16),
    Case("ocr text, lines of new widths", "ocr text", _widened, 16),
    Case("gpt2 decode, one token more each time", "gpt2 decode", _longer, 32),
)


def measure_new_shapes(folders: Folders) -> list[dict[str, Any]]:
    """Return one record for each case and side: the median of the runs with new shapes."""
    rows = {row.name: row for row in all_rows()}
    return [record for case in CASES for record in _measure(case, rows[case.row], folders)]


def _measure(case: Case, row: Row, folders: Folders) -> Iterable[dict[str, Any]]:
    try:
        path, feeds = row.call(folders, None)
    except FileNotFoundError as error:
        return [{"model": case.title, "date": report.today(), "error": str(error)}]
    sides = _sessions(str(path))
    for run in sides.values():
        for _ in range(FAMILIAR):
            run(feeds)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for n in range(case.count):
        given = case.varied(feeds, n)
        for name, run in sides.items():
            time.sleep(PAUSE)
            started = time.perf_counter()
            run(given)
            times[name].append(time.perf_counter() - started)
    peer = statistics.median(times[SIDES[0]])
    return [
        {
            "model": f"{case.title}: {name}",
            "date": report.today(),
            "seconds": statistics.median(found),
            "slowest": max(found),
            "ratio": statistics.median(found) / peer,
            "runs": case.count,
        }
        for name, found in times.items()
    ]


def _sessions(path: str) -> Mapping[str, Callable[[Feeds], Any]]:
    import onnxruntime

    import onnxref

    made: list[Any] = [onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])]
    made += [onnxref.InferenceSession(path, backend=backend) for backend in ("numba", "auto")]
    return {
        name: (lambda feeds, session=session: session.run(None, feeds))
        for name, session in zip(SIDES, made, strict=True)
    }
