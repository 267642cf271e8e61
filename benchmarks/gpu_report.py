"""The results of `benchmarks/gpu.py` as Markdown: a table, and which targets are met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Record = Mapping[str, Any]

SETTINGS: Mapping[str, tuple[str, str]] = {
    "float16": ("float16", "default"),
    "float32": ("float32", "default"),
    "tf32": ("float32", "tf32"),
}
"""Element type and precision by the name that the table gives them."""

_CEILINGS = {  # milliseconds on an H200 in float16, by row and batch
    ("ResNet-50", 1): 0.6,
    ("ResNet-50", 32): 1.2,
    ("BERT-base 128", 1): 0.6,
    ("BERT-base 128", 32): 1.8,
    ("GPT-2 decode, 512 before", 1): 0.5,
}
_NETWORKS = ("ResNet-50", "BERT-base 128", "YOLOv8n-shaped 640", "GPT-2 decode, 512 before")
_LEAST_OF_COPY = 0.85
_LEAST_OF_RATE = 0.90

_HEADS = (
    *("row", "type", "batch", "GPU ms", "wall ms", "first s", "new shape s", "launches", "arena MB"),
    *("of matrix rate", "of copy", "torch eager ms", "torch compiled ms", "on the processor"),
)


def report(result: Record) -> str:
    """Return the whole result as Markdown."""
    shown = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [f"# {result['card']}", "", f"{result['date']}; {shown}; sources {result['sources']}.", ""]
    rates = {name: rate for name, rate in result["matrix_rate"].items() if rate}
    lines += [f"Matrix rate, {name}: {rate / 1e12:.1f} TFLOP/s." for name, rate in rates.items()]
    lines += [f"Copy: {result['bandwidth'] / 1e9:.0f} GB/s.", ""]
    lines += [f"| {' | '.join(_HEADS)} |", f"|{' --- |' * len(_HEADS)}"]
    rows = sorted(result["rows"], key=lambda row: (list(SETTINGS).index(row["setting"]), row["batch"]))
    lines += [f"| {' | '.join(_cells(row, result))} |" for row in rows]
    lines += ["", "## Targets", "", "| target | measured | |", "| --- | --- | --- |"]
    lines += [f"| {' | '.join(target)} |" for target in targets(result)]
    return "\n".join(lines) + "\n"


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.3f}"


def _share(value: float | None, of: float | None) -> str:
    return "" if not value or not of else f"{100 * value / of:.0f} %"


def _cells(row: Record, result: Record) -> list[str]:
    start = [row["name"], row["setting"], str(row["batch"])]
    if "error" in row:
        return [*start, row["error"].replace("|", "/"), *[""] * (len(_HEADS) - 4)]
    torch = row["torch"]
    new = row.get("new_shape_s")
    return [
        *(*start, _ms(row["gpu_s"]), _ms(row["wall_s"]), f"{row['first_s']:.2f}"),
        *("" if new is None else f"{new:.2f}", str(row["launches"]), f"{row['arena_bytes'] / 1e6:.1f}"),
        _share(row["flop_per_s"], result["matrix_rate"].get(row["setting"])),
        _share(row["bytes_per_s"], result["bandwidth"]),
        _ms(torch.get("eager_s")) or torch.get("note", ""),
        _ms(torch.get("compiled_s")),
        ", ".join(row["on_reference"]),
    ]


def targets(result: Record) -> Iterator[tuple[str, str, str]]:
    """Yield each target whose rows are there: what it is, what was measured, whether it is met."""
    for row in result["rows"]:
        if "error" in row:
            continue
        name = f"{row['name']}, {row['setting']}, batch {row['batch']}"
        ceiling = _CEILINGS.get((row["name"], row["batch"])) if row["setting"] == "float16" else None
        if ceiling is not None and "H200" in result["card"]:
            yield _told(
                f"{name}: at most {ceiling} ms", f"{_ms(row['gpu_s'])} ms", row["gpu_s"] <= ceiling / 1e3
            )
        compiled = row["torch"].get("compiled_s")
        if compiled and row["batch"] == 1 and row["name"] in _NETWORKS:
            ratio = row["gpu_s"] / compiled
            yield _told(f"{name}: ahead of torch.compile", f"{ratio:.2f} of its time", ratio < 1)
        if row["bytes_per_s"]:
            share = row["bytes_per_s"] / result["bandwidth"]
            yield _told(f"{name}: above 85 % of a copy", f"{100 * share:.0f} %", share > _LEAST_OF_COPY)
        rate = result["matrix_rate"].get(row["setting"])
        if rate and row["name"].startswith("GEMM"):
            share = row["flop_per_s"] / rate
            yield _told(
                f"{name}: above 90 % of the matrix rate", f"{100 * share:.0f} %", share > _LEAST_OF_RATE
            )


def _told(target: str, measured: str, is_met: bool) -> tuple[str, str, str]:
    return target, measured, "met" if is_met else "missed"
