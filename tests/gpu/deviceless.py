"""Asks cuDNN itself, without a card, whether it does what we describe: run as a script by `test_deviceless`.

cuDNN plans for a card that it is only told of, by a description of its properties. The stand-ins for the
driver and the runtime say nothing but that there is one; kernels are chosen and checked, not compiled.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import cudnn

from onnxref.errors import BackendError
from onnxref.gpu import Attention, Convolution
from onnxref.gpu._cudnn import Cudnn

_SHARED = {
    "cudaDeviceId": 0,
    "driverVer": 13000,
    "isTccDriver": 0,
    "maxCtasPerSM": 32,
    "pciDeviceId": 0,
    "maxRegistersPerSM": 65536,
    "regsPerBlock": 65536,
    "maxSharedMemoryPerBlock": 49152,
    "warpSize": 32,
    "maxThreadsPerBlock": 1024,
    "maxThreadsPerSM": 2048,
    "reservedSharedMemoryPerBlock": 1024,
    "memClockRateKHz": 3201000,
    "smClockRateKHz": 1980000,
    "supportCoopLaunch": 1,
    "l2CacheSize": 52428800,
    "maxBlockSize": [1024, 1024, 64],
    "maxGridSize": [2147483647, 65535, 65535],
    "totalGlobalMem": 80_000_000_000,
}
CARDS = {
    "A100": {"deviceVer": 800, "multiProcessorCount": 108, "maxSharedMemoryPerBlockOptin": 166912},
    "H200": {"deviceVer": 900, "multiProcessorCount": 132, "maxSharedMemoryPerBlockOptin": 232448},
    "B200": {"deviceVer": 1000, "multiProcessorCount": 148, "maxSharedMemoryPerBlockOptin": 232448},
}


def _convolution(dtype: str, **changes: Any) -> Convolution:
    given: dict[str, Any] = {
        "x": (2, 64, 14, 9),
        "w": (32, 64, 3, 3),
        "y": (2, 32, 14, 9),
        "strides": (1, 1),
        "dilations": (1, 1),
        "pads": (1, 1, 1, 1),
    }
    return Convolution(dtype=dtype, **{**given, **changes})


def _convolutions(dtype: str, tf32: bool) -> list[Convolution]:
    """Return one of each kind that lowerings ask for in a type."""

    def op(**changes: Any) -> Convolution:
        return _convolution(dtype, tf32=tf32, **changes)

    plain = [
        op(),
        op(strides=(2, 3), y=(2, 32, 7, 3)),
        op(x=(1, 64, 1, 9), w=(32, 64, 1, 3), y=(1, 32, 3, 9)),
    ]
    if dtype == "float32" and not tf32:
        return plain
    fused = [
        op(has_bias=True, has_residual=residual, activation=activation)
        for residual in (False, True)
        for activation in ("", "Relu")
    ]
    volume = {"strides": (1, 2, 1), "dilations": (1, 1, 1), "pads": (1, 0, 1, 1, 0, 1)}
    others = [
        op(dilations=(2, 2), pads=(2, 2, 2, 2)),
        op(w=(32, 16, 3, 3), groups=4),
        op(x=(1, 8, 4, 6, 5), w=(16, 8, 3, 2, 3), y=(1, 16, 4, 3, 5), **volume),
    ]
    back = {
        "x": (2, 64, 7, 5),
        "w": (64, 32, 3, 3),
        "y": (2, 32, 13, 9),
        "strides": (2, 2),
        "transposed": True,
    }
    return [*plain, *fused, *others, op(**back)]


def _attentions(dtype: str) -> list[Attention]:
    return [
        Attention(1, 12, 12, 128, 128, 64, 64, dtype, 0.125),
        Attention(2, 12, 4, 128, 128, 64, 64, dtype, 0.125, causal=True),
        Attention(2, 12, 1, 3, 77, 128, 128, dtype, 0.1, causal=True),
        Attention(1, 12, 12, 1, 300, 64, 64, dtype, 0.125),
        Attention(2, 4, 4, 77, 33, 40, 8, dtype, 0.125, bias_shape=(2, 1, 77, 33)),
        Attention(2, 4, 4, 64, 64, 128, 128, dtype, 0.125, bias_shape=(1, 4, 64, 64)),
    ]


class _Graph:
    """A graph for a card that is not there; kernels that would have to be compiled are left at that."""

    def __init__(self, **options: Any) -> None:
        self.real = cudnn.pygraph(**options)

    def build_plans(self, *_: Any) -> None:
        assert self.real.get_execution_plan_count() > 0

    def serialize(self) -> list[int]:
        raise RuntimeError("nothing is kept")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class _FrontEnd:
    def __init__(self, card: str) -> None:
        told = {"deviceName": card, **_SHARED, **CARDS[card]}
        self.properties = cudnn.create_device_properties(json.dumps(told))

    def pygraph(self, *, handle: int, **options: Any) -> _Graph:
        return _Graph(device_property=self.properties, **options)

    def create_handle(self) -> int:
        return 0

    def set_stream(self, handle: int, stream: int) -> None:
        pass

    def destroy_handle(self, handle: int) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(cudnn, name)


def main() -> None:
    asked = 0
    ops: list[Convolution | Attention] = []
    for dtype, tf32 in (("float16", False), ("bfloat16", False), ("float32", False), ("float32", True)):
        ops += _convolutions(dtype, tf32)
    for dtype in ("float16", "bfloat16"):
        ops += _attentions(dtype)
    for card in CARDS:
        dnn = Cudnn(0x1000, 64 << 20, 0, card, _FrontEnd(card))
        for op in ops:
            asked += 1
            try:
                dnn.prepare(op, {})
            except BackendError as error:
                print(f"{card}: {op}: {error}")
    print(f"asked {asked}")


if __name__ == "__main__":
    sys.exit(main())
