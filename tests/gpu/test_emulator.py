"""Faults planted in kernels are found: by the emulator, by guards round memory, by the address sanitizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from onnxref.gpu import Kernel

from . import sanitize, suite
from .emulator.build import ORDERS, EmulationError, emulated
from .emulator.device import EmulatedDevice, OverrunError
from .planned import RecordingDevice
from .planted import PAST_THE_END, READS, planted, turned


def run(
    kernel: Kernel, count: int, before: Sequence[Any] = (), order: int = 0, threads: int = 64
) -> tuple[EmulatedDevice, np.ndarray[Any, Any]]:
    """Run one block over an output of `count` float32; return the device, unchecked, and the output."""
    device = EmulatedDevice(order=order)
    buffer = device.allocate(4 * count)
    device.launch(kernel, [*before, buffer.address], (1, 1, 1), (threads, 1, 1), 0)()
    y = np.empty(count, np.float32)
    device.download(buffer.address, y)
    return device, y


def test_a_sound_kernel_passes_all_of_it() -> None:
    for order in ORDERS:
        device, y = run(turned("__syncthreads();"), 64, order=order)
        device.synchronize()
        np.testing.assert_array_equal(y, np.arange(64, dtype=np.float32)[::-1])


def test_a_missing_barrier_gives_other_bits_in_another_order() -> None:
    results = {run(turned(""), 64, order=order)[1].tobytes() for order in ORDERS}
    assert len(results) > 1


def test_a_barrier_that_some_threads_miss() -> None:
    with pytest.raises(EmulationError, match="ended while others wait"):
        run(turned("if (i < 40) return;\n__syncthreads();"), 64)


def test_barriers_in_two_branches() -> None:
    with pytest.raises(EmulationError, match="different barriers"):
        run(turned("if (i < 32) {\n__syncthreads();\n} else {\n__syncthreads();\n}"), 64)


def test_a_shuffle_that_half_a_warp_misses() -> None:
    body = (
        "int i = threadIdx.x;\nfloat v = float(i);\n"
        "if (i % 2) v = __shfl_xor_sync(FULL_WARP, v, 1);\nelse __syncthreads();\ny[i] = v;"
    )
    with pytest.raises(EmulationError, match="shuffle|different barriers|ended while"):
        run(planted(body, name="half_shuffle"), 64)


@pytest.mark.parametrize("missing", [1, 63])
def test_a_write_behind_an_output(missing: int) -> None:
    device, _ = run(PAST_THE_END, 64 - missing)
    with pytest.raises(OverrunError):
        device.synchronize()


def test_a_write_before_an_output() -> None:
    device, _ = run(planted("y[int(threadIdx.x) - 1] = 1.0f;", name="before"), 64)
    with pytest.raises(OverrunError):
        device.synchronize()


def test_memory_that_nobody_wrote_is_no_number_of_use() -> None:
    device = EmulatedDevice()
    x = device.allocate(256)
    device.launch(READS, [x.address, x.address], (1, 1, 1), (1, 1, 1), 0)()
    found = np.empty(1, np.float32)
    device.download(x.address, found)
    assert found[0] == np.array([0xA5A5A5A5], np.uint32).view(np.float32)[0]


def test_shared_memory_is_spoilt_before_each_block() -> None:
    body = (
        "__shared__ int held[64];\ny[blockIdx.x * 64 + threadIdx.x] = float(held[threadIdx.x]);\n"
        "held[threadIdx.x] = 7;"
    )
    device = EmulatedDevice()
    y = device.allocate(512)
    device.launch(planted(body, name="unwritten"), [y.address], (2, 1, 1), (64, 1, 1), 0)()
    found = np.empty(128, np.float32)
    device.download(y.address, found)
    assert (found == -1).all()


@pytest.mark.parametrize("arguments", [[], [0, 0], [0, (1, 2)]])
def test_arguments_of_other_sizes(arguments: list[Any]) -> None:
    with pytest.raises(EmulationError, match="takes arguments of"):
        emulated(PAST_THE_END)(arguments, (1, 1, 1), (1, 1, 1))


def test_more_shared_memory_than_a_block_has() -> None:
    device = EmulatedDevice()
    with pytest.raises(AssertionError, match="shared memory"):
        device.launch(PAST_THE_END, [0], (1, 1, 1), (1, 1, 1), device.most_shared + 1)


def test_a_recorded_launch_is_not_run() -> None:
    device = RecordingDevice()
    call = device.launch(PAST_THE_END, [0], (1, 1, 1), (32, 1, 1), 0)
    assert list(device.seen) == [PAST_THE_END]
    with pytest.raises(AssertionError, match="was run"):
        call()


@pytest.mark.parametrize("name", ["shared", "dynamic", "output"])
def test_the_sanitizer_finds(name: str) -> None:
    done = sanitize.start("--planted", name)
    assert done.returncode == 99, done.stdout + done.stderr
    assert "AddressSanitizer" in done.stderr


@pytest.mark.parametrize("name", ["none", "none dynamic"])
def test_the_sanitizer_is_quiet_where_nothing_is_wrong(name: str) -> None:
    done = sanitize.start("--planted", name)
    assert done.returncode == 0, done.stderr


def test_all_kernels_are_clean() -> None:
    done = sanitize.start_cases()
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[:6000]
    (last,) = done.stdout.splitlines()[-1:]
    used = set(last.removeprefix("clean:").split())
    assert not {f"{file.partition('.')[0]}.{entry}" for file, entry in suite.kernel_functions()} - used
