"""From a `Model` to a `Plan`: checked nodes with their kernels, as a flat list over numbered slots."""

from ._build import build_plan
from ._steps import Plan, Step, memory_owner, read_only
from .gradient import LOWERED

__all__ = ["LOWERED", "Plan", "Step", "build_plan", "memory_owner", "read_only"]
