"""Every exception that the conformance tool raises on purpose.

ConformanceError
├── BackendUnavailableError    a backend cannot be imported, or does not exist
├── BrokenCaseError            a case's own files cannot be read; an outcome, never the end of a run
├── SuiteError                 a suite, a release or a case that was asked for cannot be had
├── ResultsError               a results file cannot be read or written
└── FuzzError                  fuzzing was asked for what it cannot do
"""

from __future__ import annotations

from onnxref import OnnxRefError


class ConformanceError(OnnxRefError):
    """Base of the errors of this package."""


class BackendUnavailableError(ConformanceError):
    """The backend cannot be imported, or there is none of that name."""


class BrokenCaseError(ConformanceError):
    """The files of a case cannot be read as what its model declares."""


class SuiteError(ConformanceError):
    """A suite, a release or a case that was asked for cannot be had."""


class ResultsError(ConformanceError):
    """A results file cannot be read or written."""


class FuzzError(ConformanceError):
    """Fuzzing was asked for what it cannot do."""
