"""From a `Plan` and inputs to outputs: the executor, and what checks and accounts around it."""

from ._device_shortcut import DeviceShortcut, find_device_shortcut
from ._execute import Execution, Observer, Run, Watcher, execute, run_plan
from ._inputs import bind_inputs
from ._shortcut import Shortcut, find_shortcut

__all__ = [
    "DeviceShortcut",
    "Execution",
    "Observer",
    "Run",
    "Shortcut",
    "Watcher",
    "bind_inputs",
    "execute",
    "find_device_shortcut",
    "find_shortcut",
    "run_plan",
]
