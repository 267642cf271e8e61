"""The child process: runs cases for one backend, one JSON line in, one JSON line out.

    python -m onnxref.conformance.worker SPEC MEMORY_BYTES

The first line that it writes tells the backend's versions, or why there is no such backend. Then each line
read is a case as `Case.to_json` tells it, with the number of differences wanted in `shown`, and each line
written is its outcome.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from .backends import Adapter, UnsupportedError, make_adapter
from .cases import Case, decode_data_set, from_json, parse_model
from .compare import Comparison, compare_outputs
from .errors import BackendUnavailableError, BrokenCaseError

MESSAGE_LENGTH = 2000


def main(arguments: Sequence[str]) -> int:
    """Serve cases until the input ends."""
    spec, memory = arguments[0], int(arguments[1])
    replies = _claim_stdout()
    limit_memory(memory)
    # A warning of a backend is no fault of it; printed for thousands of cases it would only be noise.
    warnings.simplefilter("ignore")
    try:
        adapter = make_adapter(spec)
    except BackendUnavailableError as error:
        _say(replies, {"unavailable": str(error)})
        return 1
    _say(replies, {"versions": adapter.versions()})
    for line in sys.stdin:
        told = json.loads(line)
        _say(replies, run_case(adapter, from_json(told), told["shown"]))
    return 0


def limit_memory(size: int) -> None:
    """Limit the memory that this process may allocate, in bytes; 0 is no limit."""
    if sys.platform == "win32" or not size:
        return
    import resource

    # The data segment rather than the address space: libraries reserve far more addresses than they use.
    which = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))


def run_case(adapter: Adapter, case: Case, shown: int = 1) -> dict[str, Any]:
    """Return the outcome of a case.

    It has `outcome`, `message` and `seconds`, where outputs were compared also `max_ulp` and `max_abs`, and
    in `differences` the first `shown` of the elements that differ: where, expected, actual. `spent` says that
    the process ran out of memory and should be replaced.
    """
    started = time.perf_counter()
    reply = _outcome(adapter, case, shown)
    return reply | {"seconds": round(time.perf_counter() - started, 6)}


def _outcome(adapter: Adapter, case: Case, shown: int) -> dict[str, Any]:
    try:
        found = _compare_case(adapter, case, shown)
    except BrokenCaseError as error:
        return {"outcome": "broken", "message": _short(str(error))}
    except UnsupportedError as error:
        return {"outcome": "unsupported", "message": _short(str(error))}
    except MemoryError as error:
        return {"outcome": "error", "message": _short(f"out of memory: {error}"), "spent": True}
    except Exception as error:  # noqa: BLE001 - whatever a backend raises is the outcome
        return {"outcome": "error", "message": _short(f"{type(error).__name__}: {error}")}
    return {
        "outcome": "passed" if found.passed else "failed",
        "message": _short(found.message),
        "max_ulp": found.max_ulp,
        "max_abs": found.max_abs,
        "differences": [[d.where, _short(str(d.expected)), _short(str(d.actual))] for d in found.differences],
    }


def _compare_case(adapter: Adapter, case: Case, shown: int) -> Comparison:
    """Run all data sets of a case; the first that fails is returned, else the one furthest off."""
    model_bytes, data_sets = case.contents()
    model = parse_model(model_bytes)
    decoded = [decode_data_set(model, data_set) for data_set in data_sets]
    execute = adapter.prepare(model_bytes, case.model_path)
    worst = Comparison()
    for inputs, expected in decoded:
        with np.errstate(all="ignore"):
            actual = execute(inputs)
        found = compare_outputs(expected, actual, rtol=case.rtol, atol=case.atol, shown=shown)
        if not found.passed:
            return found
        worst = max(worst, found, key=lambda one: -1.0 if one.max_ulp is None else one.max_ulp)
    return worst


def _short(message: str) -> str:
    """One line that any terminal, file and page can show."""
    text = " ".join(message.split())
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return text if len(text) <= MESSAGE_LENGTH else text[: MESSAGE_LENGTH - 4] + " ..."


def _claim_stdout() -> IO[str]:
    """Keep the pipe to the runner to ourselves: what a backend prints goes to stderr."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _say(replies: IO[str], message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
