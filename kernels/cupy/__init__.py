"""Lowerings to CUDA kernels and NVIDIA's libraries. Importing this package registers all of them, without CuPy.

One file per operator family describes the work; `code/` holds the kernels themselves, in CUDA C++.
"""

from . import (  # noqa: F401
    batchnorm,
    cast,
    chain,
    creation,
    elementwise,
    indexing,
    integer_linalg,
    joining,
    layout,
    linalg,
    normalization,
    padding,
    reduction,
    resize,
    sampling,
    scan,
    selection,
    shape,
    softmax,
)
