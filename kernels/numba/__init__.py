"""Lowerings to native code for the CPU. Importing this package registers all of them, without Numba.

One file per operator family describes the work; `code/` holds the kernels themselves, in Numba.
"""

from . import (  # noqa: F401
    attention,
    batchnorm,
    borders,
    cast,
    chain,
    channels,
    convolution,
    elementwise,
    indexing,
    joining,
    layout,
    linalg,
    matmul_nbits,
    ml_encoders,
    ml_linear,
    ml_trees,
    normalization,
    padding,
    pooling,
    quantization,
    quantized_conv,
    quantized_pooling,
    recurrent,
    reduction,
    resize,
    selection,
    shape,
    suppression,
    text,
    transposed,
)
