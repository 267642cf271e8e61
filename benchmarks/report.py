"""Results of the benchmark as JSON and Markdown."""

from __future__ import annotations

import datetime
import importlib
import itertools
import json
import math
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from onnxref.cli._bench import milliseconds

_PACKAGES = ("onnxref", "onnxruntime", "openvino", "onnx", "numpy", "numba", "llvmlite")

Record = Mapping[str, Any]


def today() -> str:
    """Return the date."""
    return datetime.date.today().isoformat()


def environment(cores: int) -> dict[str, Any]:
    """Return what the numbers depend on."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "date": today(),
        "processor": processor(),
        "cores": cores,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return found.get("model name") or platform.machine()


def side(record: Record, runtime: str) -> dict[str, Any] | None:
    """Return what was measured of a runtime; None where there is nothing or it failed."""
    found = (s for s in record.get("sides", ()) if s["runtime"] == runtime and s["error"] is None)
    return next(found, None)


def ratio(record: Record, runtime: str, what: str = "seconds") -> float | None:
    """Return how much of a runtime's time (or another figure) onnxref takes."""
    ours, theirs = side(record, "onnxref"), side(record, runtime)
    return ours[what] / theirs[what] if ours and theirs and ours[what] and theirs[what] else None


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the ratios that there are."""
    known = [value for value in values if value is not None]
    return math.exp(statistics.fmean(map(math.log, known))) if known else None


def is_met(record: Record) -> bool | None:
    """Whether a row is as fast as its target says; None where that is not known."""
    found = ratio(record, "onnxruntime")
    return None if found is None or record.get("target") is None else found <= record["target"]


def summary(record: Record) -> str:
    """Return a row in a few words."""
    if "sides" not in record:
        return record.get("skipped") or f"failed: {record['error']}"
    parts = []
    for found in record["sides"]:
        shown = found["error"] or f"{milliseconds(found['seconds'])} ms"
        quotient = ratio(record, found["runtime"]) if found["runtime"] != "onnxref" else None
        parts.append(f"{found['runtime']} {shown}" + (f" (ratio {quotient:.2f})" if quotient else ""))
    return "; ".join(parts)


@dataclass
class Results:
    """Sections of records, each with the environment that it was measured in.

    Attributes:
        about: today's environment.
    """

    about: dict[str, Any]
    sections: dict[str, list[dict[str, Any]]]

    @classmethod
    def read(cls, path: Path, cores: int) -> Results:
        """Return what a file holds; nothing where there is none."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            content = {"environment": {}, "sections": {}}
        sections = content["sections"]
        for record in itertools.chain.from_iterable(sections.values()):
            # Files that tell it once only: a record's date is its own.
            dated = {"date": record["date"]} if "date" in record else {}
            record.setdefault("environment", {**content["environment"], **dated})
        return cls(environment(cores), sections)

    def add(self, section: str, records: Sequence[dict[str, Any]]) -> None:
        """Put records in the place of older ones of the same model; the others stay."""
        newer = {record["model"]: {**record, "environment": self.about} for record in records}
        known = [newer.pop(record["model"], record) for record in self.sections.get(section, ())]
        self.sections[section] = [*known, *newer.values()]

    def write(self, path: Path) -> None:
        """Write JSON, Markdown beside it, and the curves as SVG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"environment": self.about, "sections": self.sections}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        parts = ["# onnxref on the processor, against other runtimes", _facts(self.about)]
        parts += [f"## {name[0].upper()}{name[1:]}\n\n{self.section_text(name)}" for name in self.sections]
        if plot(self.sections.get("scaling", ()), path.with_name(f"{path.stem}-scaling.svg")):
            parts.append(f"![Time and memory over batch and length]({path.stem}-scaling.svg)")
        path.with_suffix(".md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")

    def section_text(self, section: str) -> str:
        """Return a section as Markdown."""
        records = self.sections[section]
        notes = _elsewhere(records, self.about)
        if section == "cold":
            table = _markdown(("process", "ms"), [(r["model"], milliseconds(r["seconds"])) for r in records])
        elif section == "new shapes":
            table = _markdown(("runs", "median ms", "slowest ms", "/ ORT"), map(_new_shapes, records))
        else:
            table = _table(records) + ("" if section == "scaling" else f"\n\n{_means(records)}")
            notes += _notes(records)
        return "\n\n".join([table, "\n".join(notes)] if notes else [table])


def _shown(about: Mapping[str, Any]) -> str:
    """Return an environment in one line; as much of it as is known."""
    told = [about.get("date"), about.get("processor")]
    told += [f"{about['cores']} cores"] if "cores" in about else []
    told += [about.get("system")]
    told += [f"{name} {about[name]}" for name in ("python", *_PACKAGES) if name in about]
    return ", ".join(filter(None, told))


def _elsewhere(records: Sequence[Record], about: Mapping[str, Any]) -> list[str]:
    """Return a line for each environment but the header's, with the rows that were measured there."""
    groups: dict[str, list[str]] = {}
    for record in records:
        if record["environment"] != about:
            groups.setdefault(_shown(record["environment"]), []).append(record["model"])
    return [
        f"- {'all rows' if len(names) == len(records) else '; '.join(names)}: measured {shown}"
        for shown, names in groups.items()
    ]


def _facts(about: Mapping[str, Any]) -> str:
    return (
        f"{_shown(about)}.\n\n"
        "Made by `python benchmarks/run.py`; [README.md](../README.md) tells the method. "
        "Times are milliseconds; a ratio below 1 means that onnxref needs less."
    )


def _new_shapes(record: Record) -> tuple[str, ...]:
    if "error" in record:
        return record["model"], "failed", "", ""
    times = (milliseconds(record[name]) for name in ("seconds", "slowest"))
    return record["model"], *times, _number(record["ratio"])


def _table(records: Sequence[Record]) -> str:
    columns = (
        "model", "onnxref", "ORT", "OpenVINO", "/ ORT", "/ OpenVINO", "target", "met",
        "load", "ORT load", "memory MB", "/ ORT",
    )  # fmt: skip
    rows = []
    for record in records:
        sides = [side(record, name) for name in ("onnxref", "onnxruntime", "openvino")]
        if sides[0] is None:
            rows.append([record["model"], "not free" if "skipped" in record else "failed", *[""] * 10])
            continue
        ratios = [ratio(record, "onnxruntime"), ratio(record, "openvino")]
        met = is_met(record)
        rows.append(
            [
                record["model"],
                *(milliseconds(s["seconds"]) if s else "-" for s in sides),
                *map(_number, ratios),
                _number(record.get("target")),
                "" if met is None else "yes" if met else "**no**",
                *(milliseconds(s["load_seconds"]) if s else "-" for s in sides[:2]),
                f"{sides[0]['peak_bytes'] / 1e6:.0f}" if sides[0]["peak_bytes"] else "-",
                _number(ratio(record, "onnxruntime", "peak_bytes")),
            ]
        )
    return _markdown(columns, rows)


def _means(records: Sequence[Record]) -> str:
    """Return geometric means by group, and of all."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record["group"], []).append(record)
    rows = []
    for group, members in [*groups.items(), ("all", list(records))]:
        known = [found for record in members if (found := is_met(record)) is not None]
        rows.append(
            [
                group,
                _number(geometric_mean(ratio(r, "onnxruntime") for r in members)),
                _number(geometric_mean(ratio(r, "openvino") for r in members)),
                f"{sum(known)} of {len(known)}",
                _number(geometric_mean(ratio(r, "onnxruntime", "load_seconds") for r in members)),
                _number(geometric_mean(ratio(r, "onnxruntime", "peak_bytes") for r in members)),
            ]
        )
    columns = (
        "geometric means",
        "time / ORT",
        "time / OpenVINO",
        "targets met",
        "load / ORT",
        "memory / ORT",
    )
    return _markdown(columns, rows)


def _notes(records: Sequence[Record]) -> list[str]:
    """Return a line for each failure, and for each comparison in quanta."""
    lines = []
    for record in records:
        if "error" in record:
            lines.append(f"- {record['model']} failed: {record['error']}")
        for found in record.get("sides", ()):
            if found["error"]:
                lines.append(f"- {found['runtime']} on {record['model']}: {found['error']}")
            elif found["runtime"] == "onnxref":  # compared with itself in float32, at a lower precision only
                if found["largest_difference"] is not None:
                    error = f"{found['largest_difference']:.0e} of the largest value"
                    lines.append(f"- {record['model']}: outputs differ from those in float32 by {error}")
                lines += [f"- {record['model']}: {note}" for note in found.get("notes", ())]
            elif found["quanta"] is not None:
                quanta = f"{found['quanta']:.1f} quanta of 8 bits"
                lines.append(f"- {record['model']}: outputs are {quanta} from {found['runtime']}'s")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


# Curves ------------------------------------------------------------------------------------------------


def plot(records: Sequence[Record], path: Path) -> bool:
    """Draw time and memory over batch and length; return whether there is a picture."""
    if not records:
        return False
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ModuleNotFoundError:
        return path.exists()
    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # text as text: a tenth of the size
    figure, axes = importlib.import_module("matplotlib.pyplot").subplots(2, 2, figsize=(10, 7))
    for row, (what, unit, scale) in enumerate((("seconds", "ms", 1e3), ("peak_bytes", "MB", 1e-6))):
        for column, start in enumerate(("resnet50 batch", "transformer block length")):
            ax = axes[row][column]
            ax.set(title=start if not row else "", ylabel=unit, xlabel=start.split()[-1])
            ax.set(xscale="log", yscale="log")
            ax.grid(alpha=0.3)
            _curves(ax, [r for r in records if r["model"].startswith(start)], what, scale)
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    return True


def _curves(ax: Any, records: Sequence[Record], what: str, scale: float) -> None:
    sizes: set[int] = set()
    for runtime in ("onnxref", "onnxruntime", "openvino"):
        found = ((int(r["model"].split()[-1]), side(r, runtime)) for r in records)
        points = sorted((size, s[what] * scale) for size, s in found if s and s[what])
        ax.plot([x for x, _ in points], [y for _, y in points], marker="o", label=runtime)
        sizes.update(x for x, _ in points)
    ax.set_xticks(sorted(sizes), [str(size) for size in sorted(sizes)])
    ax.set_xticks([], minor=True)
