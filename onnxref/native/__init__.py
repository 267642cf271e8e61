"""Native code from Python: compiled by Numba, kept on disk as object code, run by one thread pool.

This room knows nothing of operators. It answers three questions: what can this processor do
(`target`), how does a Python function become machine code that later processes can load without Numba
(`NativeFunction`), and how does a list of such functions run on all cores (`Team`).
"""

from ._behind import CompileJob, compile_together
from ._cache import cache_folder, clear_cache, describe_cache
from ._cache import load as load_code
from ._cache import store as store_code
from ._cores import usable_cores
from ._function import NativeFunction, NativeUnavailableError, loaded_like, native
from ._target import AVX512_BF16, SOFTWARE, Target, target
from ._team import PATCH, ROW, Launch, Team, array_handle, run_serially, team_of
from ._text import TextLayout, text_layout

__all__ = [
    "AVX512_BF16",
    "PATCH",
    "ROW",
    "SOFTWARE",
    "CompileJob",
    "Launch",
    "NativeFunction",
    "NativeUnavailableError",
    "Target",
    "Team",
    "TextLayout",
    "array_handle",
    "cache_folder",
    "clear_cache",
    "compile_together",
    "describe_cache",
    "load_code",
    "loaded_like",
    "native",
    "run_serially",
    "store_code",
    "target",
    "team_of",
    "text_layout",
    "usable_cores",
]
