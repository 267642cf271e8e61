"""From a `Model` to a `Plan`: checked nodes with their kernels, as a flat list over numbered slots."""

from ._build import build_plan
from ._functions import bind_attributes, function_graph
from ._steps import Plan, Step, read_only
from .gradient import LOWERED

__all__ = [
    "LOWERED",
    "Plan",
    "Step",
    "bind_attributes",
    "build_plan",
    "function_graph",
    "read_only",
]
