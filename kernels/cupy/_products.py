"""What kernels make of the sums of a product: the parameters of `code/product.cuh`."""

from __future__ import annotations

from onnxref.gpu import CTYPES

ACTIVATIONS = (  # by their numbers
    *("", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh"),
    *("HardSigmoid", "HardSwish", "Silu", "Gelu", "GeluTanh"),
)


def epilogue_defines(name: str, activation: str = "") -> dict[str, str | int]:
    """Return the parameters for an element type, of floats or integers, and an activation."""
    factor = {"float64": "double"}.get(name, "float" if "float" in name else "long long")
    return {"T": CTYPES[name], "FACTOR": factor, "ACTIVATION": ACTIVATIONS.index(activation)}
