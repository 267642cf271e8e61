"""Times onnxref against ONNX Runtime and OpenVINO; see README.md beside this file for the method.

python benchmarks/run.py                       # every model, all cores
python benchmarks/run.py silero ocr            # those with one of these words in their name or group
python benchmarks/run.py --threads 1 --batch 8 # other settings
python benchmarks/run.py --scaling --cold      # curves over batch and length; the first second of a process
python benchmarks/run.py --new-shapes          # runs with shapes that a session has not met
python benchmarks/run.py --full                # all of the above, one section after the other
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from onnxref.benchmark import PEERS, SAMPLES, Setting, measure
from onnxref.native import usable_cores

sys.path.insert(0, str(Path(__file__).parent))
import cold
import new_shapes
import report
from rows import TARGETS, TESTS, BatchIsFixedError, Folders, Row, all_rows, scaling_rows

RESULTS = Path(__file__).parent / "results" / "cpu.json"
LONGEST = 1800  # seconds for one row
SPECIAL: Mapping[str, Callable[[Folders], list[dict[str, Any]]]] = {
    "new shapes": new_shapes.measure_new_shapes,
    "cold": cold.measure_cold,
}
"""Sections without rows of their own."""


@dataclass(frozen=True)
class Settings:
    """How all rows of one section are run.

    Attributes:
        cpu: level that onnxref's native code is held to; the other runtimes use what the processor has.
        precision: as of `onnxref.benchmark.Setting`.
    """

    backend: str = "numba"
    threads: int | None = None
    batch: int | None = None
    cpu: str | None = None
    precision: str = "default"
    samples: int = SAMPLES
    memory: bool = True
    peers: tuple[str, ...] = ()

    @property
    def section(self) -> str:
        """Name of the section of the results."""
        shown = ["all cores" if self.threads is None else f"threads {self.threads}"]
        shown += [] if self.batch is None else [f"batch {self.batch}"]
        shown += [] if self.cpu is None else [f"onnxref held to {self.cpu}"]
        shown += [] if self.backend == "numba" else [f"backend {self.backend}"]
        shown += [] if self.precision == "default" else [f"precision {self.precision}"]
        return ", ".join(shown)


# One row, in a process of its own: nothing of the rows before is in its memory, and it may crash --------


def serve(name: str, settings: Settings, folders: Folders) -> None:
    """Measure one row and print its record as the last line."""
    (row,) = (row for row in [*all_rows(), *scaling_rows()] if row.name == name)
    try:
        path, feeds = row.call(folders, settings.batch)
    except BatchIsFixedError:
        print(json.dumps({"skipped": "its batch is fixed"}))
        return
    sides = measure(
        path,
        feeds,
        settings.peers,
        Setting(settings.backend, settings.threads, settings.precision),
        quantised=row.quantised,
        samples=settings.samples,
        memory=settings.memory,
    )
    print(json.dumps({"sides": [side.as_record() for side in sides]}))


def run_row(row: Row, settings: Settings, folders: Folders) -> dict[str, Any]:
    """Return the record of a row; one with the key `error` where it failed."""
    request = json.dumps([row.name, asdict(settings), str(folders.made), str(folders.exported)])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
    }
    if settings.cpu is not None:
        environment["ONNXREF_CPU"] = settings.cpu
    command = [sys.executable, __file__, "--serve", request]
    record: dict[str, Any]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
        )
    except subprocess.TimeoutExpired:
        record = {"error": f"it took more than {LONGEST} s"}
    else:
        lines = (done.stdout if done.returncode == 0 else done.stderr).splitlines()
        last = next(
            (line.strip() for line in reversed(lines) if line.strip()), f"exit status {done.returncode}"
        )
        record = json.loads(last) if done.returncode == 0 else {"error": last[:300]}
    target = TARGETS.get(row.group)
    return {"model": row.name, "group": row.group, "target": target, "date": report.today(), **record}


def run_rows(
    rows: Sequence[Row], settings: Settings, folders: Folders, console: Console
) -> list[dict[str, Any]]:
    """Run rows one after the other; say of each how it went."""
    records = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(rows))
        for row in rows:
            progress.update(task, description=row.name)
            started = time.perf_counter()
            records.append(run_row(row, settings, folders))
            seconds = time.perf_counter() - started
            text = f"{row.name}: {report.summary(records[-1])}  [{seconds:.0f} s]"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
            progress.advance(task)
    return records


# The program ------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only rows with one of these words in their name or group")
    parser.add_argument("--full", action="store_true", help="every section")
    parser.add_argument("--scaling", action="store_true", help="only curves over batch and sequence length")
    parser.add_argument("--cold", action="store_true", help="only the start of a process")
    parser.add_argument("--new-shapes", action="store_true", help="only runs with new shapes")
    parser.add_argument("--threads", type=int, help="threads of every side (default: all cores)")
    parser.add_argument("--batch", type=int, help="size of the batch, where it is free")
    parser.add_argument("--cpu", help="hold onnxref to this level of instructions, such as avx2")
    parser.add_argument("--backend", default="numba", help="onnxref's kernel set (default numba)")
    parser.add_argument(
        "--precision",
        choices=("default", "strict", "bf16"),
        default="default",
        help="of onnxref; bf16 is asked of OpenVINO too (its default where the processor has it)",
    )
    parser.add_argument(
        "--samples", type=int, default=SAMPLES, help=f"samples of each side (default {SAMPLES})"
    )
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--peers", default="onnxruntime,openvino", help="what to compare with, by commas")
    parser.add_argument(
        "--models", type=Path, default=Path(__file__).parent / "models", help="exported transformers"
    )
    made = Path(tempfile.gettempdir()) / "onnxref-benchmarks"
    parser.add_argument("--made", type=Path, default=made, help="models that are made here, kept there")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results as JSON; .md beside it")
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    return parser.parse_args()


def chosen(words: Sequence[str], rows: Sequence[Row]) -> list[Row]:
    """Return the rows that have one of the words."""
    return [
        r for r in rows if not words or any(word.lower() in f"{r.name} {r.group}".lower() for word in words)
    ]


def installed(peers: str, console: Console) -> tuple[str, ...]:
    """Return the peers that can be imported, and say which cannot."""
    found = []
    for peer in peers.split(",") if peers else []:
        if peer not in PEERS:
            raise SystemExit(f"there is no runtime {peer!r}; choose from {', '.join(PEERS)}")
        if find_spec(peer.partition(".")[0]) is None:
            console.print(f"{peer} is left out: pip install {PEERS[peer]}")
        else:
            found.append(peer)
    return tuple(found)


def main() -> int:
    """Run the sections that the command line asks for, and write their results."""
    given = arguments()
    folders = Folders(given.made, given.models)
    if given.serve:
        name, settings, made, exported = json.loads(given.serve)
        serve(
            name,
            Settings(**{**settings, "peers": tuple(settings["peers"])}),
            Folders(Path(made), Path(exported)),
        )
        return 0
    console = Console()
    rows = chosen(given.words, all_rows())
    if given.list:
        console.print("\n".join(f"{row.group}: {row.name}" for row in rows))
        return 0
    settings = Settings(
        backend=given.backend,
        threads=given.threads,
        batch=given.batch,
        cpu=given.cpu,
        precision=given.precision,
        samples=given.samples,
        memory=not given.no_memory,
        peers=installed(given.peers, console),
    )
    results = report.Results.read(given.out, usable_cores())
    for section, wanted, how in _sections(given, settings, rows):
        console.rule(section)
        special = SPECIAL.get(section)
        records = special(folders) if special else run_rows(wanted, how, folders, console)
        results.add(section, records)
        results.write(given.out)
        console.print(results.section_text(section), markup=False, highlight=False, soft_wrap=True)
    return 0


def _sections(
    given: argparse.Namespace, settings: Settings, rows: Sequence[Row]
) -> list[tuple[str, Sequence[Row], Settings]]:
    """Return name, rows and settings of what is to be run."""
    curves = ("scaling", chosen(given.words, scaling_rows()), settings)
    others: list[tuple[str, Sequence[Row], Settings]] = [(name, (), settings) for name in SPECIAL]
    plain = (settings.section, rows, settings)
    if not given.full:
        asked = {"new shapes": given.new_shapes, "cold": given.cold}
        picked = [curves] * given.scaling + [other for other in others if asked[other[0]]]
        return picked or [plain]
    base = asdict(settings)
    # Other settings beside ONNX Runtime alone: what they change is shown by that.
    base |= {"peers": tuple(peer for peer in settings.peers if peer == "onnxruntime"), "memory": False}
    single = Settings(**{**base, "threads": 1})
    large = Settings(**{**base, "batch": 8})
    narrow = Settings(**{**base, "cpu": "avx2"})
    images = chosen(("cnn",), rows)
    wanted = ((single, rows), (large, images), (narrow, rows))
    return [plain, *((how.section, chosen_rows, how) for how, chosen_rows in wanted), curves, *others]


if __name__ == "__main__":
    sys.exit(main())
