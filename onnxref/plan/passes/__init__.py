"""The passes over a block of known shapes, in the order in which they run.

Order
    1. Quantised patterns first: what they leave is a float model that the others know, once the weights
       that they have not taken are dequantized.
    2. Patterns before fusions: a recognised LayerNormalization is one op, its parts would end in chains.
    3. Products of one operand become one once attention is known, which reads them in place, and before
       they take epilogues.
    4. Epilogues before skip-normalisations: a product takes the residual at no cost. What is still normalised
       alone then goes into products.
    5. Shuffles of channels end in convolutions that have their normalisation and epilogues already.
    6. Chains last: they take what nobody else wanted.
"""

from collections.abc import Callable, Collection
from functools import cache

from ._block import Block
from .attention import recognize_attention
from .chains import fuse_chains
from .cleanup import fold_batchnorm, fuse_epilogues, merge_transposes, remove_identities
from .norms import fuse_norms
from .patterns import fuse_skip_normalizations, recognize_patterns
from .projections import merge_projections
from .quantized import fuse_quantized
from .shuffles import fuse_shuffles, recognize_shuffles
from .weights import fold_weights

Pass = Callable[[Block], int]

_PASSES: tuple[Pass, ...] = (
    remove_identities,
    merge_transposes,
    fuse_quantized,
    fold_weights,
    recognize_patterns,
    recognize_attention,
    merge_projections,
    recognize_shuffles,
    fold_batchnorm,
    fuse_epilogues,
    fuse_shuffles,
    fuse_skip_normalizations,
    fuse_norms,
    fuse_chains,
)


@cache
def all_passes() -> dict[str, Pass]:
    """Return every pass by name, in the order in which they run."""
    return {run.__name__: run for run in _PASSES}


def run_passes(block: Block, without: Collection[str] = ()) -> dict[str, int]:
    """Run the passes over a block; return how much each has rewritten."""
    return {name: run(block) for name, run in all_passes().items() if name not in without}


__all__ = ["Block", "Pass", "all_passes", "fold_weights", "run_passes"]
