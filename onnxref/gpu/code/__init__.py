"""CUDA C++ of what every program needs, whatever its operators."""
