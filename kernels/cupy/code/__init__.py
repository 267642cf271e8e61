"""CUDA C++ of the kernels, one file per family; `common.cuh` stands before each of them."""
