"""Times `import onnxref` in fresh processes, next to `import onnxruntime` and `import onnx`.

python benchmarks/import_time.py [--runs N]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

from rich.console import Console
from rich.table import Table

MODULES = ("onnxref", "onnxruntime", "onnx", "numpy")

# Timed inside the process, so that the interpreter's own start is not counted.
PROGRAM = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def import_time(module: str) -> float:
    """Return the seconds that one import takes in a new process."""
    command = [sys.executable, "-P", "-c", PROGRAM.format(module)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description="Times imports in fresh processes.")
    parser.add_argument("--runs", type=int, default=20, help="processes per module (default 20)")
    runs = parser.parse_args().runs
    for module in MODULES:  # fills the caches of files and bytecode
        import_time(module)
    times: dict[str, list[float]] = {module: [] for module in MODULES}
    for _ in range(runs):
        for module in MODULES:
            times[module].append(import_time(module))
    table = Table("import", "median ms", "min ms", "max ms")
    for module, seconds in times.items():
        row = (statistics.median(seconds), min(seconds), max(seconds))
        table.add_row(module, *(f"{value * 1e3:.0f}" for value in row))
    Console().print(table)


if __name__ == "__main__":
    main()
