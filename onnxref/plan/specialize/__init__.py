"""From a plan to native programs, one for each signature of input shapes.

steps of a plan --(a first run, or shape rules)--> Record --> Block of ops
    --(passes, layouts)--> lowered calls --> Program
"""

from ._device_program import DeviceConstants, DeviceProgram
from ._explain import NodeExplanation, explain_plan
from ._lower import LAYOUTS, Lowered
from ._program import Program, RefusedError
from ._record import Frame, Record, decides
from ._regions import Acceleration, Region, Regions, all_regions, specialize

__all__ = [
    "LAYOUTS",
    "Acceleration",
    "DeviceConstants",
    "DeviceProgram",
    "Frame",
    "Lowered",
    "NodeExplanation",
    "Program",
    "Record",
    "RefusedError",
    "Region",
    "Regions",
    "all_regions",
    "decides",
    "explain_plan",
    "specialize",
]
