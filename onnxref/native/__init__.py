"""Native code from Python: compiled by Numba, kept on disk as object code, run by one thread pool.

This room knows nothing of operators. It answers three questions: what can this processor do
(`target`), how does a Python function become machine code that later processes can load without Numba
(`NativeFunction`), and how does a list of such functions run on all cores (`Team`).
"""

from ._behind import CompileJob, compile_together
from ._cache import cache_folder, clear_cache, describe_cache
from ._function import NativeFunction, NativeUnavailableError, native
from ._target import Target, target
from ._team import ROW, Team, run_serially, team_of

__all__ = [
    "ROW",
    "CompileJob",
    "NativeFunction",
    "NativeUnavailableError",
    "Target",
    "Team",
    "cache_folder",
    "clear_cache",
    "compile_together",
    "describe_cache",
    "native",
    "run_serially",
    "target",
    "team_of",
]
