"""The official backend tests on the native kernels: what passes on the reference passes here.

Every model runs natively as far as there are kernels; with this backend the first run already returns
the native result.
"""

from __future__ import annotations

from typing import Any, ClassVar

import onnx.backend.test
from test_backend_suite import SeededBackend


class NumbaBackend(SeededBackend):
    """onnxref with its native kernels."""

    options: ClassVar[dict[str, Any]] = {"backend": "numba"}


_suite = onnx.backend.test.BackendTest(NumbaBackend, __name__)
_suite.xfail("^test_bernoulli")
_suite.xfail("^test_loop16_seq_none_cpu")  # tests/test_backend_suite.py says why
globals().update(_suite.test_cases)
