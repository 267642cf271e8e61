"""Measures any ONNX backend: in worker processes that may die, with every outcome written down.

`onnxref conformance --help` is the way in; docs/conformance.md explains it. The rooms, in the order in which
a case passes through them:

    suites/        where cases come from: the installed onnx package, the wheels of its past releases
    cases.py       a case, and the folder layout of the official tests
    values.py      one `.pb` file of such a folder, to a Python value and back
    backends.py    one small adapter for each kind of backend
    worker.py      the child process that runs cases
    compare.py     is what came out what was expected, and how far off is it
    runner.py      workers, time limits, restarts
    results.py     JSON lines, appended as they come
    summary.py     result files put together: totals, surprises, differences
    report.py      the same for the terminal and as Markdown
    page.py        the same as one HTML page
    fuzz.py        drawn cases on several backends; imports hypothesis, so only when asked for

Nothing here knows more of onnxref than any other program does: its public names. Importing this package costs
next to nothing, because the command line imports it before it knows which command is meant.
"""

from .errors import BackendUnavailableError, BrokenCaseError, ConformanceError, ResultsError, SuiteError

__all__ = [
    "BackendUnavailableError",
    "BrokenCaseError",
    "ConformanceError",
    "ResultsError",
    "SuiteError",
]
