"""cuDNN takes every kind of graph that we describe, for cards of three generations, none of which is here."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytest.importorskip("cudnn")

_ROOT = Path(__file__).parents[2]
# What cuDNN wants of a driver before it checks kernels that it would have to compile, and never calls then,
# but for the two that tell how many clusters of blocks a card takes.
_DRIVER = """
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuOccupancyMaxPotentialClusterSize(int *size, void *kernel, void *launch) { *size = 16; return 0; }
int cuOccupancyMaxActiveClusters(int *count, void *kernel, void *launch) { *count = 66; return 0; }
"""
_UNUSED = (
    *("CtxGetCurrent", "CtxGetLimit", "CtxPopCurrent", "CtxPushCurrent", "DeviceGet", "DeviceGetCount"),
    *("GetErrorName", "GetErrorString", "KernelGetAttribute", "KernelSetAttribute", "LaunchKernel"),
    *("LaunchCooperativeKernel", "LaunchKernelEx", "LibraryGetKernel", "LibraryLoadData", "LinkAddData"),
    *("LibraryLoadFromFile", "LibraryUnload", "LinkComplete", "LinkCreate", "LinkDestroy", "StreamGetCtx"),
)
# `cudaDeviceProp` is zeros but for the architecture, by which attention is checked: sm_90 for all cards.
_RUNTIME = """
#include <string.h>
int cudaGetDevice(int *device) { *device = 0; return 0; }
const char *cudaGetErrorString(int error) { return ""; }
int cudaGetDeviceProperties(char *properties, int device) {
    memset(properties, 0, 1008);
    *(int *)(properties + 360) = 9;  // major, in CUDA 12 and 13
    return 0;
}
"""


def _runtime_name() -> str:
    """Return what the front end looks for; it refuses to choose where the system has another one."""
    for name in ("libcudart.so.12", "libcudart.so.13"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return name
    return "libcudart.so.13"


def _build(folder: Path, name: str, text: str) -> None:
    build = ["g++", "-w", "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{name}", "-o", name]
    subprocess.run(build, cwd=folder, input=text, text=True, check=True)


def test_graphs_are_what_cudnn_does(tmp_path: Path) -> None:
    if not list(Path(sysconfig.get_path("purelib"), "nvidia/cudnn/lib").glob("libcudnn.so.*")):
        pytest.skip("cuDNN is not installed (nvidia-cudnn-cu13)")
    unused = "".join(f"int cu{name}(void) {{ return 1; }}\n" for name in _UNUSED)
    _build(tmp_path, "libcuda.so.1", _DRIVER + unused)
    _build(tmp_path, _runtime_name(), _RUNTIME)
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.deviceless"],
        cwd=_ROOT,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "ONNXREF_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == ["asked 144"], done.stdout + done.stderr
