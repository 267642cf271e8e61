"""The child process: runs cases for one backend, one JSON line in, one JSON line out.

    python -P -m onnxref.conformance.worker SPEC MEMORY_BYTES

The first line that it writes tells the backend's versions, or why there is no such backend. Then each line
read is a case as `Case.to_json` tells it, with the number of differences wanted in `shown`, or with `outputs`
where the outputs themselves are wanted, and each line written is its outcome.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import IO, Any

import numpy as np
import onnx

from .backends import Adapter, Execute, NativeExecute, UnsupportedError, make_adapter
from .cases import Case, decode_data_set, from_json, parse_model
from .compare import Comparison, compare_outputs
from .declared import compare_declared
from .errors import BackendUnavailableError, BrokenCaseError
from .values import decode, encode

MESSAGE_LENGTH = 2000


def main(arguments: Sequence[str]) -> int:
    """Serve cases until the input ends."""
    spec, memory = arguments[0], int(arguments[1])
    replies = _claim_stdout()
    limit_memory(memory)
    sys.path.append(os.getcwd())  # a backend may be a module there, but hides no other
    # A warning of a backend is no fault of it; printed for thousands of cases it would only be noise.
    warnings.simplefilter("ignore")
    try:
        adapter = make_adapter(spec)
    except BackendUnavailableError as error:
        _say(replies, {"unavailable": str(error)})
        return 1
    _say(replies, {"versions": adapter.versions(), "patience": adapter.patience})
    for line in sys.stdin:
        told = json.loads(line)
        case = from_json(told)
        _say(
            replies,
            run_outputs(adapter, case) if "outputs" in told else run_case(adapter, case, told["shown"]),
        )
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
    in `differences` the first `shown` of the elements that differ: where, expected, actual. A kernel set of
    onnxref tells how many of the model's `nodes` were `native`. `right` says that an adjudicated case has the
    outputs that it should have expected. `spent` says that the process ran out of
    memory and should be replaced.
    """
    started = time.perf_counter()
    reply = _outcome(lambda: _compared(adapter, case, shown))
    return reply | {"seconds": round(time.perf_counter() - started, 6)}


def run_outputs(adapter: Adapter, case: Case) -> dict[str, Any]:
    """Run the one data set of a case, whose outputs nobody knows; a reply that `passed` has `outputs`."""
    return _outcome(lambda: _outputs(adapter, case)) | {"seconds": 0.0}


def _outputs(adapter: Adapter, case: Case) -> dict[str, Any]:
    model_bytes, (data_set,) = case.contents()
    graph = parse_model(model_bytes).graph
    pairs = zip(data_set.inputs, graph.input, strict=True)
    inputs = [decode(data, info.type) for data, info in pairs]
    execute = adapter.prepare(model_bytes, case.model_path)
    with np.errstate(all="ignore"):
        actual = execute(inputs)
    files = [encode(value, info.type) for value, info in zip(actual, graph.output, strict=True)]
    return {"outcome": "passed", "message": "", "outputs": [b64encode(data).decode() for data in files]}


def _outcome(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return run()
    except BrokenCaseError as error:
        return {"outcome": "broken", "message": _short(str(error))}
    except UnsupportedError as error:
        return {"outcome": "unsupported", "message": _short(str(error))}
    except MemoryError as error:
        return {"outcome": "error", "message": _short(f"out of memory: {error}"), "spent": True}
    except Exception as error:  # noqa: BLE001 - whatever a backend raises is the outcome
        return {"outcome": "error", "message": _short(f"{type(error).__name__}: {error}")}


def _compared(adapter: Adapter, case: Case, shown: int) -> dict[str, Any]:
    found, coverage = _compare_case(adapter, case, shown)
    return coverage | {
        "outcome": "passed" if found.passed else "failed",
        "message": _short(found.message),
        "max_ulp": found.max_ulp,
        "max_abs": found.max_abs,
        "differences": [[d.where, _short(str(d.expected)), _short(str(d.actual))] for d in found.differences],
    }


def _compare_case(adapter: Adapter, case: Case, shown: int) -> tuple[Comparison, dict[str, Any]]:
    """Run all data sets of a case; the first that fails is returned, else the one furthest off.

    Beside it, for a backend that tells: `native` of the model's `nodes` ran as native code. And `right` where
    the outputs differ from the stored ones, which are wrong, and are as they should be.
    """
    model_bytes, data_sets = case.contents()
    model = parse_model(model_bytes)
    decoded = [decode_data_set(model, data_set, case.types_only) for data_set in data_sets]
    execute = adapter.prepare(model_bytes, case.model_path)
    # Nothing is measured where only types are checked.
    worst = Comparison("", None, None) if case.types_only else Comparison()
    coverage: dict[str, Any] = {}
    for inputs, expected in decoded:
        with np.errstate(all="ignore"):
            actual = execute(inputs)
        coverage = _coverage(execute)
        if case.types_only:
            found = compare_declared(model.graph.output, actual)
        else:
            found = compare_outputs(expected, actual, rtol=case.rtol, atol=case.atol, shown=shown)
        if not found.passed:
            return found, coverage | ({"right": True} if _is_right(case, model, actual) else {})
        worst = max(worst, found, key=lambda one: -1.0 if one.max_ulp is None else one.max_ulp)
    return worst, coverage


def _is_right(case: Case, model: onnx.ModelProto, actual: Sequence[Any]) -> bool:
    """Whether outputs are what an adjudicated case should have expected."""
    if case.right_declared:
        return compare_declared(model.graph.output, actual).passed
    if not case.right:
        return False
    expected = [decode(data, info.type) for data, info in zip(case.right, model.graph.output, strict=True)]
    return compare_outputs(expected, actual, rtol=case.rtol, atol=max(case.atol, case.right_atol)).passed


def _coverage(execute: Execute) -> dict[str, int]:
    if not isinstance(execute, NativeExecute):
        return {}
    native, nodes = execute.coverage()
    return {"native": native, "nodes": nodes}


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
