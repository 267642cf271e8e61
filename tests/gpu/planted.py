"""Kernels with faults planted in them, for the tests of what finds faults."""

from __future__ import annotations

from onnxref.gpu import Kernel


def planted(body: str, parameters: str = "float *y", name: str = "planted") -> Kernel:
    """Return a kernel with this body."""
    text = f'extern "C" __global__ void {name}({parameters}) {{\n{body}\n}}\n'
    return Kernel("onnxref.kernels.cupy.code", "common.cuh", name, generated=text)


def turned(barrier: str) -> Kernel:
    """Return a kernel that turns 64 elements round through shared memory."""
    return planted(
        "__shared__ float held[64];\nint i = threadIdx.x;\nheld[i] = float(i);\n"
        f"{barrier}\ny[i] = held[63 - i];",
        name="turned",
    )


def shared_overrun(size: int) -> Kernel:
    """Return a kernel of 64 threads that writes to `size` elements of shared memory."""
    return planted(
        f"__shared__ float held[{size}];\nint i = threadIdx.x;\nheld[i] = float(i);\n__syncthreads();\n"
        "y[i] = held[i];",
        name="shared_overrun",
    )


DYNAMIC = planted(
    "extern __shared__ unsigned char raw[];\nfloat *held = reinterpret_cast<float *>(raw);\n"
    "int i = threadIdx.x;\nheld[i] = float(i);\n__syncthreads();\ny[i] = held[i];",
    name="dynamic",
)
"""Writes four bytes of dynamic shared memory for each thread."""

PAST_THE_END = planted("y[threadIdx.x] = 1.0f;", name="past_the_end")
"""Writes one element for each thread."""

READS = planted("y[0] = x[threadIdx.x];", "const float *x, float *y", name="reads")
"""Reads one element for each thread."""
