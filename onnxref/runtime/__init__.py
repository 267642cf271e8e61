"""From a `Plan` and inputs to outputs: the executor, and what checks and accounts around it."""

from ._execute import Observer, Run, execute, run_plan
from ._inputs import bind_inputs

__all__ = ["Observer", "Run", "bind_inputs", "execute", "run_plan"]
