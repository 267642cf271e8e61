"""NVRTC compiles what the planner emits, within the budget of registers, and every launch suits a card.

The kernels are those of all official node, simple and PyTorch models of the onnx package, of its node models
with constants for inputs and of `small_models.py`, with cuBLASLt and cuDNN and without them, and of the real
models named here. Together they use every kernel that there is.
Compiled are all of them for sm_90; for sm_80 and sm_100 one variant of each function, and one in `SHARE` of
all, others for each of the two. ONNXREF_EMULATE=all (`make test-emulated`) compiles all for all three.
"""

from __future__ import annotations

import math
import os
import re
from functools import cache

import numpy as np
import pytest

import onnxref
from onnxref.gpu import MOST_BLOCKS, MOST_THREADS, Kernel, translation_unit

from . import suite
from .planned import LIBRARIES, Geometry, launches, recording

nvrtc = pytest.importorskip("cupy", reason="CuPy is not installed").cuda.nvrtc

PARTS = 4  # of the kernels, each a test
SHARE = 5
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
REAL = (
    *("silero_vad 16 kHz", "silero_vad_half 16 kHz", "magika", "ocr detection", "ocr direction", "ocr text"),
    *("torch cnn_dynamo_opset20", "torch encoder_opset17", "torch gpt_dynamo_opset23", "torch lstm_opset13"),
    *("light_shufflenet", "light_squeezenet", "sklearn scaler + random forest"),
    *("sklearn gradient boosting", "sklearn counts + logistic regression"),
)
REGISTERS = 65536  # of a multiprocessor, for all threads of a block
MOST_SHARED = 227 * 1024

SPILLS = {
    ("chain.cuh", "chain"): (
        40,
        "Max and Min of integers of 8 and 16 bits, from sm_90 on: only where elements come one by one",
    ),
    ("normalization.cu", "normalize_parts"): (12, "float64 by statistics in float32: one register of forty"),
    ("quantized_conv.cu", "integer_direct"): (
        56,
        "four channels at once with both zero points: all registers",
    ),
    ("recurrent_scan.cu", "scan"): (24, "512 threads leave 128 registers, 84 of them for weights"),
}
"""Most bytes (stores and loads) that variants of a function may spill, and why."""


@cache
def planned() -> dict[Kernel, set[Geometry]]:
    """Return one kernel of each text, with how it is launched; those that stand in for libraries too."""
    found: dict[tuple[str, str], tuple[Kernel, set[Geometry]]] = {}
    with recording(*LIBRARIES) as device:
        for model in suite.real_models(*REAL):
            session = onnxref.InferenceSession(model.model(), backend="cupy")
            session.run(None, model.calls()[0])
            device.buffers.clear()
    for seen in (*launches(*LIBRARIES).values(), *launches().values(), device.seen):
        for kernel, geometries in seen.items():
            found.setdefault((translation_unit(kernel), kernel.entry), (kernel, set()))[1].update(geometries)
    return dict(sorted(found.values(), key=lambda entry: (str(entry[0]), entry[0].generated)))


def chosen(arch: str) -> list[Kernel]:
    """Return the kernels that are compiled for an architecture."""
    kernels = list(planned())
    if os.environ.get("ONNXREF_EMULATE") == "all":
        return kernels
    if arch == "sm_90":
        return kernels
    functions = {(kernel.file, kernel.entry): kernel for kernel in kernels}
    return list(dict.fromkeys((*functions.values(), *kernels[ARCHITECTURES.index(arch) :: SHARE])))


def compiled(kernel: Kernel, arch: str) -> str:
    """Compile a kernel and return what ptxas says of it."""
    from onnxref.gpu._nvrtc import _OPTIONS, include_folders

    program = nvrtc.createProgram(translation_unit(kernel), kernel.file, (), ())
    try:
        includes = [f"-I{folder}" for folder in include_folders()]
        try:
            nvrtc.compileProgram(program, (f"-arch={arch}", *_OPTIONS, "-Xptxas=-v", *includes))
        except nvrtc.NVRTCError:
            pytest.fail(f"{kernel} for {arch}:\n{nvrtc.getProgramLog(program)[:4000]}")
        assert bytes(nvrtc.getCUBIN(program)).startswith(b"\x7fELF")
        return str(nvrtc.getProgramLog(program))
    finally:
        nvrtc.destroyProgram(program)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_kernel_compiles_within_its_registers(part: int, arch: str) -> None:
    faults = []
    for kernel in chosen(arch)[part::PARTS]:
        log = compiled(kernel, arch)
        own = log.partition(f"entry function '{kernel.entry}'")[2].partition("Compiling entry")[0]
        (registers,) = map(int, re.findall(r"Used (\d+) registers", own))
        spilled = [int(count) for count in re.findall(r"(\d+) bytes spill", own)]
        assert spilled, log  # those of functions that are not inlined follow
        threads = max(math.prod(geometry.block) for geometry in planned()[kernel])
        if threads * -(-registers // 8) * 8 > REGISTERS:
            faults.append(f"{kernel}: {threads} threads of {registers} registers cannot be launched")
        if sum(spilled) > SPILLS.get((kernel.file, kernel.entry), (0, ""))[0]:
            faults.append(f"{kernel}: it spills {sum(spilled)} bytes for {arch}\n{kernel.generated[:600]}")
    assert not faults, "\n".join(faults)


def test_every_launch_is_one_that_a_card_takes() -> None:
    for kernel, geometries in planned().items():
        for found in geometries:
            x, y, z = found.grid
            assert 0 < x <= MOST_BLOCKS, (kernel, found)
            assert 0 < y < 65536, (kernel, found)
            assert 0 < z < 65536, (kernel, found)
            assert 0 < math.prod(found.block) <= MOST_THREADS, (kernel, found)
            assert found.block[2] <= 64, (kernel, found)
            assert 0 <= found.shared <= MOST_SHARED, (kernel, found)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_kernel_is_compiled(arch: str) -> None:
    """Whoever adds a kernel that no model here uses adds one to `small_models.py`."""
    missing = suite.kernel_functions() - {(kernel.file, kernel.entry) for kernel in chosen(arch)}
    assert not missing


def test_a_kernel_that_spills_is_seen() -> None:
    """The log is read rightly: a kernel with more live values than registers is told of."""
    lines = "".join(f"float v{i} = x[{i} * n];" for i in range(300))
    tail = "".join(f"x[{i} + n] = v{i} * v{(i * 7) % 300};" for i in range(300))
    kernel = Kernel(
        "onnxref.kernels.cupy.code",
        "common.cuh",
        "greedy",
        generated=f'extern "C" __global__ void __launch_bounds__(1024) greedy(float *x, long long n) {{'
        f"{lines} __syncthreads(); {tail} }}",
    )
    assert np.any([int(count) for count in re.findall(r"(\d+) bytes spill", compiled(kernel, "sm_90"))])
