"""One step of an optimizer: Adagrad, Adam, Momentum (ai.onnx.preview.training).

The bits of the reference, but for Adam's rate: that is made of powers, in float64, within two units in the
last place of those.
"""

from __future__ import annotations

import numpy as np

from onnxref.gpu import CTYPES, cuda_kernel, grid_for
from onnxref.lowering import Operand, Site, Unsupported, lower
from onnxref.registry import TRAINING

from ..common.checks import check_result
from .movement import check_plain

_EPSILON, _ALPHA, _BETA = (float(np.float32(x)) for x in (1e-6, 0.9, 0.999))
_KINDS = ("Adagrad", "Adam", "Momentum", "Nesterov")


def _emit(site: Site, kind: str, inputs: tuple[Operand, ...], groups: int, *constants: float) -> None:
    """Emit a launch for each tensor; `groups` of them follow the rate and the count."""
    rate, count, *tensors = inputs
    n, rest = divmod(len(tensors), groups)
    if not n or rest or rate.size != 1 or count.size != 1:
        raise Unsupported("groups of different lengths, or a rate that is no scalar")
    if rate.dtype.name not in ("float32", "float64") or count.dtype != np.int64:
        raise Unsupported(f"a rate of type {rate.dtype.name}")
    outputs = site.outputs
    check_plain(*tensors, *outputs)
    for i in range(n):
        x = tensors[i]
        if any(t.shape != x.shape or t.dtype != x.dtype for t in tensors[i::n]):
            raise Unsupported("a tensor and its state of different shapes or types")
        if x.dtype.name not in ("float32", "float64"):
            raise Unsupported(f"tensors are {x.dtype.name}")
        for y in outputs[i::n]:
            if y is not None:
                check_result(y, x.shape)
    values = tuple(map(np.float64, (*constants, *(0.0,) * (5 - len(constants)))))
    for i in range(n):
        x, gradient, *state = tensors[i::n]
        made = [y if y is not None else site.scratch(x.nbytes) for y in outputs[i::n]]
        kernel = cuda_kernel(
            "onnxref.kernels.cupy.code", "optimizers.cu", "optimize",
            ELEMENT=CTYPES[x.dtype.name], RATE=CTYPES[rate.dtype.name], KIND=_KINDS.index(kind),
        )  # fmt: skip
        if x.size:
            site.launch(
                kernel,
                *(rate, count, x, gradient, state[0], state[-1], made[0], made[1], made[-1], x.size, *values),
                grid=grid_for(x.size, per_thread=4),
            )


@lower("Adagrad", since=1, domain=TRAINING, backend="cupy")
def adagrad(
    site: Site,
    *inputs: Operand,
    decay_factor: float = 0.0,
    epsilon: float = _EPSILON,
    norm_coefficient: float = 0.0,
) -> None:
    """ai.onnx.preview.training Adagrad-1."""
    _emit(site, "Adagrad", inputs, 3, decay_factor, epsilon, norm_coefficient)


@lower("Adam", since=1, domain=TRAINING, backend="cupy")
def adam(
    site: Site,
    *inputs: Operand,
    alpha: float = _ALPHA,
    beta: float = _BETA,
    epsilon: float = _EPSILON,
    norm_coefficient: float = 0.0,
    norm_coefficient_post: float = 0.0,
) -> None:
    """ai.onnx.preview.training Adam-1."""
    _emit(site, "Adam", inputs, 4, alpha, beta, epsilon, norm_coefficient, norm_coefficient_post)


@lower("Momentum", since=1, domain=TRAINING, backend="cupy")
def momentum(
    site: Site, *inputs: Operand, alpha: float, beta: float, mode: str, norm_coefficient: float
) -> None:
    """ai.onnx.preview.training Momentum-1."""
    if mode not in ("standard", "nesterov"):
        raise Unsupported(f"mode {mode}")
    kind = "Nesterov" if mode == "nesterov" else "Momentum"
    _emit(site, kind, inputs, 3, alpha, beta, norm_coefficient)
