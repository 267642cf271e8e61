"""Lowerings to native code for the CPU. Importing this package registers all of them, without Numba.

One file per operator family describes the work; `code/` holds the kernels themselves, in Numba.
"""

import importlib.util

for _n in "attention batchnorm borders cast chain convolution elementwise indexing layout linalg ml_encoders ml_linear ml_trees normalization pooling quantization quantized_conv recurrent reduction resize selection shape transposed".split():
    if importlib.util.find_spec(f"{__name__}.{_n}"):
        importlib.import_module(f"{__name__}.{_n}")
