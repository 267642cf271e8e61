"""One HTML file about a model: its graph, coloured by what was measured, with everything about each node.

The page asks no network for anything and forbids itself to: all it needs is in it, as text that is never
read as HTML. Results of the other tools come as their `to_json()`, or as the same read back from a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..errors import InputError, OutputError
from ..graph import Model
from ..limits import DEFAULT, Limits
from ..model import load_model
from ._page import Pages
from ._recorder import all_iterations

_TEMPLATE = Path(__file__).with_name("report.html")
_MOST_SAMPLES = 2_000
_MOST_ALIVE = 200
_ERRORS = ("absolute", "relative", "ulp", "cosine", "snr", "beyond", "where", "golden", "value", "message")


def write_report(
    path: str | Path,
    model: Any,
    *,
    trace: Any = None,
    comparison: Any = None,
    precision: Any = None,
    profile: Any = None,
    limits: Limits = DEFAULT,
) -> Path:
    """Write a report on a model as one HTML file, and return its path.

    Args:
        path: the file to write.
        model: in any form that `onnxref.run` takes.
        trace, comparison, precision, profile: what `onnxref.debug` has found out about it: a result, or what
            its `to_json` gave. What is left out is not on the page.

    Raises:
        ModelError: the model cannot be loaded.
        InputError: a result is neither a result nor what one gave as JSON.
        OutputError: the file cannot be written.
    """
    loaded = load_model(model, limits)
    title = Path(model).name if isinstance(model, (str, Path)) else loaded.graph.name or "model"
    page = render_report(
        loaded, title=title, trace=trace, comparison=comparison, precision=precision, profile=profile
    )
    target = Path(path)
    try:
        target.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise OutputError(f"cannot write the report to {str(target)!r}: {error.strerror}") from error
    return target


def render_report(
    model: Model,
    *,
    title: str,
    trace: Any = None,
    comparison: Any = None,
    precision: Any = None,
    profile: Any = None,
) -> str:
    """Return the report's HTML; see `write_report`."""
    pages = Pages(model)
    data: dict[str, Any] = {
        "title": title,
        "facts": _facts(model),
        "graphs": pages.graphs,
        "specs": pages.specs,
        "values": {},
        "times": {},
        "errors": {},
        "precision": {},
    }
    if trace is not None:
        data["values"], data["trace"] = _values(_plain_result(trace, "trace"))
    if comparison is not None:
        data["errors"], data["comparison"] = _errors(_plain_result(comparison, "comparison"))
    if precision is not None:
        data["precision"] = _precision(_plain_result(precision, "precision"))
    if profile is not None:
        data["times"], data["profile"] = _times(_plain_result(profile, "profile"))
    before, after = _TEMPLATE.read_text(encoding="utf-8").split("%%data")
    return f"{before.replace('%%title', escape(title))}{_embedded(data)}{after}"


def _embedded(data: Any) -> str:
    """Return JSON that can stand inside of a script element: no letter there begins or ends a tag."""
    text = json.dumps(_jsonable(data), allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _jsonable(value: Any) -> Any:
    """Return plain data; numbers that JSON does not have as text, floats with six digits."""
    match value:
        case bool() | None | str() | int():
            return value
        case float():
            return float(f"{value:.6g}") if math.isfinite(value) else str(value)
        case Mapping():
            return {str(key): _jsonable(item) for key, item in value.items()}
        case list() | tuple():
            return [_jsonable(item) for item in value]
        case _:
            return str(value)


def _plain_result(result: Any, kind: str) -> Mapping[str, Any]:
    """Return a result as the plain data of its `to_json`."""
    found = result.to_json() if hasattr(result, "to_json") else result
    if not isinstance(found, Mapping):
        raise InputError(
            f"{kind} must be a result of onnxref.debug or what its to_json gave "
            f"(got a {type(result).__name__})"
        )
    return found


def _rows(result: Mapping[str, Any], key: str) -> Iterable[Mapping[str, Any]]:
    """Return the entries of a list in a result, as far as they are entries at all."""
    rows = result.get(key) or ()
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise InputError(f"{key!r} of a result must be a list (got a {type(rows).__name__})")
    return (row for row in rows if isinstance(row, Mapping))


def _facts(model: Model) -> list[list[str]]:
    graph = model.graph
    imports = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in model.opset_imports.items())
    producer = f"{model.producer_name} {model.producer_version}".strip()
    weights = sum(getattr(array, "nbytes", 0) for array in graph.initializers.values())
    found = [
        ("graph", graph.name),
        ("producer", producer),
        ("operator sets", imports),
        ("IR version", str(model.ir_version)),
        ("nodes", f"{len(graph.nodes):,}"),
        ("initializers", f"{len(graph.initializers):,}, {weights:,} bytes"),
        ("functions", str(len(model.functions)) if model.functions else ""),
        ("description", (model.doc or graph.doc)[:2_000]),
        *((f"metadata {key}", value[:400]) for key, value in list(model.metadata.items())[:20]),
    ]
    return [[name, text] for name, text in found if text]


# ------------------------------------------------------------------------------- trace: values by node


def _values(trace: Mapping[str, Any]) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Return statistics by the path of the node that made the value; iterations are taken together."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in _rows(trace, "values"):
        name, node = all_iterations(str(row.get("path", ""))), all_iterations(str(row.get("node", "")))
        own = found.setdefault(node, {})
        known = own.get(name)
        own[name] = _one_value(row, name) if known is None else _together(known, row)
    facts = {key: trace.get(key) for key in ("nodes", "seconds", "error", "left_out")}
    return {node: list(values.values()) for node, values in found.items()}, facts


_COUNTS = ("nan", "inf", "zeros", "size")


def _one_value(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    left_out = ("path", "node", "op_type", "step", "seconds")
    return {"name": name, "times": 1} | {k: v for k, v in row.items() if k not in left_out}


def _together(known: dict[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the statistics of all iterations so far: extremes and counts of all, the rest of the last."""
    made = _one_value(row, known["name"])
    made["times"] = known["times"] + 1
    for key, choose in (("min", min), ("max", max), ("headroom", max), ("below_half", max)):
        numbers = [x for x in (known.get(key), row.get(key)) if isinstance(x, (int, float))]
        made[key] = choose(numbers, default=None)
    for key in _COUNTS:
        made[key] = (known.get(key) or 0) + (row.get(key) or 0)
    return made


# --------------------------------------------------------------------------- comparison: errors by node


def _errors(comparison: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return verdict and errors by path; of the iterations of a loop the worst one."""
    found: dict[str, dict[str, Any]] = {}
    for row in _rows(comparison, "nodes"):
        path = all_iterations(str(row.get("node", "")))
        outputs = [_output(output) for output in _rows(row, "outputs")]
        made = {
            "at": str(row.get("node", "")),
            "verdict": row.get("verdict", ""),
            "cumulative": _worst(output["cumulative"] for output in outputs),
            "local": _worst(output["local"] for output in outputs),
            "outputs": outputs,
        }
        if path not in found or _badness(made) > _badness(found[path]):
            found[path] = made
    names = ("golden", "other", "passed", "stopped", "problem", "counts", "first", "wrong")
    return found, {name: comparison.get(name) for name in names}


def _output(output: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": output.get("name", ""), "note": output.get("note", "")}
    for kind in ("cumulative", "local"):
        errors = output.get(kind)
        found[kind] = {k: errors.get(k) for k in _ERRORS} if isinstance(errors, Mapping) else None
    return found


def _worst(errors: Iterable[Mapping[str, Any] | None]) -> float | None:
    """Return the size of the largest error relative to its golden value, both as vectors."""
    sizes = [_noise(found) for found in errors if found is not None]
    return max(sizes, default=None)


def _noise(errors: Mapping[str, Any]) -> float:
    """Return |value - golden| / |golden| from the signal-to-noise ratio in dB; infinite if nothing fits."""
    if errors.get("message"):
        return math.inf
    try:
        snr = float(errors["snr"])  # "inf" where both are equal
    except (KeyError, TypeError, ValueError):
        return math.inf
    return math.inf if math.isnan(snr) else 10.0 ** (-snr / 20.0)


def _badness(made: Mapping[str, Any]) -> tuple[bool, float]:
    return made["verdict"] == "wrong", made["cumulative"] or 0.0


# ---------------------------------------------------------------------- precision: rounding by node


def _precision(precision: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what a precision study says of each node by path; the worst of outputs and iterations."""
    found: dict[str, dict[str, Any]] = {}
    for row in _rows(precision, "nodes"):
        path = all_iterations(str(row.get("node", "")))
        made = {key: row[key] for key in ("output", "condition", "flips", "note") if row.get(key)}
        for part in ("own", "inherited", "total"):
            sizes = row.get(part)
            if isinstance(sizes, Mapping):
                made[part] = {key: sizes.get(key) for key in ("ulp", "snr")}
        made["ulp"] = made.get("own", {}).get("ulp")
        if path not in found or _ulp(made) > _ulp(found[path]):
            found[path] = made
    return found


def _ulp(row: Mapping[str, Any]) -> float:
    value = row.get("ulp")
    return float(value) if isinstance(value, (int, float)) else 0.0


# ----------------------------------------------------------------------------------- profile: times


def _times(profile: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return times by path, those of several ops of one node together; fused nodes point to their op."""
    found: dict[str, dict[str, Any]] = {}
    for op in _rows(profile, "ops"):
        path, nodes = str(op.get("path", "")), [str(node) for node in op.get("nodes") or ()]
        entry = found.setdefault(path, {"own": 0.0, "total": 0.0, "calls": 0, "ops": []})
        entry.setdefault("ops", []).append({k: op.get(k) for k in ("operator", "kernel", "kind")})
        entry["own"] = entry.get("own", 0.0) + (op.get("own_seconds") or 0.0)
        entry["total"] = entry.get("total", 0.0) + (op.get("seconds") or 0.0)
        entry["calls"] = max(entry.get("calls", 0), op.get("calls") or 0)
        scope = path.removesuffix(nodes[0]) if nodes else path
        entry["with"] = sorted({*entry.get("with", ()), *nodes[1:]})
        for other in nodes[1:]:
            found.setdefault(scope + other, {})["into"] = path
    names = ("backend", "runs", "run_seconds", "op_seconds", "by_operator", "by_kernel", "by_module")
    return found, {name: profile.get(name) for name in names} | {"memory": _memory(profile)}


def _memory(profile: Mapping[str, Any]) -> dict[str, Any] | None:
    memory = profile.get("memory")
    if not isinstance(memory, Mapping):
        return None
    samples = list(memory.get("samples") or ())
    alive = list(memory.get("alive_at_peak") or ())[:_MOST_ALIVE]
    return {**memory, "samples": _thinned(samples), "alive_at_peak": alive}


def _thinned(samples: Sequence[Any]) -> list[Any]:
    """Return at most so many samples: of each stretch its highest, so that no peak is lost."""
    if len(samples) <= _MOST_SAMPLES:
        return list(samples)
    step = -(-len(samples) // _MOST_SAMPLES)
    return [max(samples[i : i + step], key=lambda sample: sample[1]) for i in range(0, len(samples), step)]
