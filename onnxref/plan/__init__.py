"""From a `Model` to a `Plan`: checked nodes with their kernels, as a flat list over numbered slots."""

from ._build import build_plan
from ._gradient import LOWERED
from ._steps import Plan, Step

__all__ = ["LOWERED", "Plan", "Step", "build_plan"]
