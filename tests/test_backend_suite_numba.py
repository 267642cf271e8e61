"""The official backend tests on the native kernels: what passes on the reference passes here.

Every model runs natively as far as there are kernels; with this backend the first run already returns
the native result.
"""

from __future__ import annotations

from typing import Any, ClassVar

import onnx.backend.test
import pytest
from test_backend_suite import IMPOSSIBLE, SeededBackend

from onnxref.plan.specialize import _regions


@pytest.fixture(autouse=True)
def compiled_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cores are busy with tests already: other processes to compile in would only have to start."""
    monkeypatch.setattr(_regions, "compile_together", lambda functions, processes: None)


class NumbaBackend(SeededBackend):
    """onnxref with its native kernels."""

    options: ClassVar[dict[str, Any]] = {"backend": "numba"}


_suite = onnx.backend.test.BackendTest(NumbaBackend, __name__)
for _name in IMPOSSIBLE:
    _suite.xfail(f"^{_name}_cpu$")
globals().update(_suite.test_cases)
