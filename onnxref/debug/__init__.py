"""The debugger: see inside a model, on the executor's own observers.

    trace        values and their statistics, anywhere in the model
    compare      two runners, value by value: which node is wrong, which one inherited it
    find_nan     the first NaN, infinity or float16 overflow, and what made it
    precision    error of each node against float64; `what_if` nodes ran in a narrower type
    bisect       which pass of a runtime makes the difference
    reduce       a failing model made small
    repro        a node with its actual inputs, as a folder and a script
    profile      time and memory of each node
    write_report one HTML file with all of it

The `onnxref` command has one command for each.
"""

from ._align import Alignment
from ._bisect import Bisection, bisect
from ._compare import align_models, compare, iterate_comparison
from ._comparison import Comparison, NodeComparison, ValueComparison
from ._errors_between import Errors, Tolerance, errors_between
from ._nan import NanFinding, NanReport, find_nan
from ._precision import NodePrecision, PrecisionReport, precision
from ._profile import Profile, profile
from ._quantised import QuantisedComparison, compare_quantised, measure_quantisers
from ._reduce import Diverges, Reduction, ShellCheck, reduce
from ._report import render_report, write_report
from ._repro import Repro, repro, repro_values
from ._runners import CallableRunner, RecordedRunner, Runner, open_runner
from ._simulate import WhatIf, simulate, what_if
from ._stats import Histogram, ValueStatistics
from ._subgraph import Extraction, extract, extract_nodes, extract_values
from ._timeline import MemoryTimeline, chrome_trace
from ._trace import Trace, TracedValue, TraceEvent, Tracer, trace

__all__ = [
    "Alignment",
    "Bisection",
    "CallableRunner",
    "Comparison",
    "Diverges",
    "Errors",
    "Extraction",
    "Histogram",
    "MemoryTimeline",
    "NanFinding",
    "NanReport",
    "NodeComparison",
    "NodePrecision",
    "PrecisionReport",
    "Profile",
    "QuantisedComparison",
    "RecordedRunner",
    "Reduction",
    "Repro",
    "Runner",
    "ShellCheck",
    "Tolerance",
    "Trace",
    "TraceEvent",
    "TracedValue",
    "Tracer",
    "ValueComparison",
    "ValueStatistics",
    "WhatIf",
    "align_models",
    "bisect",
    "chrome_trace",
    "compare",
    "compare_quantised",
    "errors_between",
    "extract",
    "extract_nodes",
    "extract_values",
    "find_nan",
    "iterate_comparison",
    "measure_quantisers",
    "open_runner",
    "precision",
    "profile",
    "reduce",
    "render_report",
    "repro",
    "repro_values",
    "simulate",
    "trace",
    "what_if",
    "write_report",
]
