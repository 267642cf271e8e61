"""From a plan to native programs, one for each signature of input shapes.

    steps of a plan --(a first run)--> Record --> Block of ops --(passes, layouts)--> lowered calls --> Program
"""

from ._program import Program
from ._record import Record
from ._regions import Acceleration, Region, Regions, specialize

__all__ = ["Acceleration", "Program", "Record", "Region", "Regions", "specialize"]
