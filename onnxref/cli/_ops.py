"""`onnxref ops`: which operators, versions, types and backends are implemented."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from rich.console import Console

from .. import registry, schema
from ..errors import UnsupportedOperatorError
from ..lowering import ACCELERATED, load_lowerings, lowerings
from ..plan import LOWERED
from ._tables import table


def ops_command(name: str | None, *, as_json: bool) -> None:
    """Print all operators, or the versions and types of one."""
    found = _collect()
    if name is None:
        rows = [
            {
                "operator": op,
                "domain": domain or "ai.onnx",
                "versions": sorted(versions),
                "backends": _all(versions),
            }
            for (domain, op), versions in sorted(found.items())
        ]
        _show(rows, f"{len(rows)} operators", as_json)
        return
    matches = {key: v for key, v in found.items() if key[1].lower() == name.lower()}
    if not matches:
        raise UnsupportedOperatorError(f"no operator is called {name!r}; see `onnxref ops`")
    rows = [
        _version_row(domain, op, version, backends)
        for (domain, op), versions in matches.items()
        for version, backends in sorted(versions.items())
    ]
    _show(rows, next(iter(matches))[1], as_json)


def _collect() -> dict[tuple[str, str], dict[int, list[str]]]:
    """Return backends by version by operator."""
    found: dict[tuple[str, str], dict[int, list[str]]] = defaultdict(dict)
    for version, operator in registry.operators():
        if operator.domain != registry.INTERNAL:
            found[operator.domain, operator.op_type].setdefault(version, []).append("numpy")
    for backend in ACCELERATED:
        load_lowerings(backend)
        for version, lowering in lowerings(backend):
            if lowering.domain != registry.INTERNAL:
                found[lowering.domain, lowering.op_type][version].append(backend)
    for domain, op, version in LOWERED:
        found[domain, op][version] = ["all (rewritten as other operators)"]
    return found


def _all(versions: dict[int, list[str]]) -> list[str]:
    return list(dict.fromkeys(backend for backends in versions.values() for backend in backends))


def _version_row(domain: str, op: str, version: int, backends: list[str]) -> dict[str, Any]:
    found = schema.find(domain, op, version)
    if found is None:
        raise UnsupportedOperatorError(f"the onnx package has no {op}-{version}")

    def types(parameters: tuple[schema.Parameter, ...]) -> str:
        return "; ".join(f"{p.name}: {_short(p.types)}" for p in parameters)

    return {
        "version": version,
        "domain": domain or "ai.onnx",
        "inputs": types(found.inputs),
        "outputs": types(found.outputs),
        "attributes": sorted(found.attributes),
        "backends": backends,
    }


def _short(types: frozenset[str]) -> str:
    return " | ".join(
        sorted(t.removeprefix("tensor(").removesuffix(")") if t.startswith("tensor") else t for t in types)
    )


def _show(rows: list[dict[str, Any]], title: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows))
        return
    cells = [[", ".join(map(str, v)) if isinstance(v, list) else v for v in row.values()] for row in rows]
    Console().print(table(title, list(rows[0]), cells))
