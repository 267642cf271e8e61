"""What a device is told to do, as data: launches of kernels and calls of libraries, with their operands.

Arguments of a kernel
    an address (operand, scratch, packed array)  a pointer
    int                                          `long long`
    float                                        `float`
    numpy.float64                                `double`
    tuple of addresses and ints                  `Ints<N>`, by value
    ctypes array of int64                        the same, as it is at the time of each launch
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from ..errors import BackendError
from ._kernel import Kernel

Extent: TypeAlias = tuple[int, int, int]
Join: TypeAlias = "Callable[[Sequence[Launch]], list[Launch]]"

MOST_BLOCKS = 0x7FFFFFFF  # in x; 65535 in y and z
MOST_THREADS = 1024
MOST_SHARED = 48 * 1024  # bytes that a block has without asking for more


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel over a grid of blocks.

    Attributes:
        arguments: see the module's table.
        grid, block: extents (x, y, z) in blocks and in threads.
        shared: bytes of dynamic shared memory for each block.
        join: makes fewer launches of several that have the same `join` and do not depend on each other.
    """

    kernel: Kernel
    arguments: tuple[Any, ...]
    grid: Extent
    block: Extent
    shared: int = 0
    join: Join | None = None

    @property
    def library(self) -> str:
        return "raw"

    def __str__(self) -> str:
        return str(self.kernel)


@dataclass(frozen=True, slots=True)
class Matmul:
    """D = epilogue(alpha * op(A) op(B) + bias), or + C, for a batch of row-major matrices, by cuBLASLt.

    Attributes:
        m, n, k: D is (m, n); op(A) is (m, k), op(B) is (k, n).
        dtype: element type of A, B, C and D by NumPy's name; "int8" gives an int32 D.
        trans_a, trans_b: whether A lies as (k, m), B as (n, k).
        batch: matrices; strides in elements between those of A, B and D (0: the same one for all).
        pitches: elements from row to row of A, B and D as they lie; 0 where rows lie one behind the other.
        epilogue: what follows: "" none, "Relu", "Gelu" (tanh form); a bias of n elements is added before it.
        tf32: whether float32 may be multiplied in TF32.
        has_residual: whether C, of D's layout and strides, is added before the epilogue.
        residual_pitch: the pitch of C; None where it is that of D.
    """

    m: int
    n: int
    k: int
    dtype: str
    trans_a: bool = False
    trans_b: bool = False
    alpha: float = 1.0
    batch: int = 1
    strides: tuple[int, int, int] = (0, 0, 0)
    epilogue: Literal["", "Relu", "Gelu"] = ""
    tf32: bool = False
    has_bias: bool = False
    has_residual: bool = False
    pitches: tuple[int, int, int] = (0, 0, 0)
    residual_pitch: int | None = None

    def __str__(self) -> str:
        shape = f"{self.batch}x" * (self.batch > 1) + f"{self.m}x{self.n}x{self.k}"
        extras = "+bias" * self.has_bias + "+residual" * self.has_residual
        return f"cublasLt.matmul({self.dtype} {shape}{extras}{'+' * bool(self.epilogue)}{self.epilogue})"


@dataclass(frozen=True, slots=True)
class Convolution:
    """Y = activation(conv(X, W) + bias + residual) in channels-last memory, by cuDNN.

    Attributes:
        x: (N, C, spatial...), w: (M, C / groups, kernel...), y: (N, M, spatial...): extents, all tensors
            lying with the channels last (w as M, kernel..., C / groups).
        pads: begin of each axis, then end.
        activation: "" or "Relu".
        transposed: the gradient with respect to data (ConvTranspose): x and y change roles in w.
        pitches: elements from pixel to pixel of x, y and the residual; 0 where there are no gaps.
    """

    x: tuple[int, ...]
    w: tuple[int, ...]
    y: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    groups: int = 1
    activation: Literal["", "Relu"] = ""
    has_bias: bool = False
    has_residual: bool = False
    tf32: bool = False
    transposed: bool = False
    pitches: tuple[int, int, int] = (0, 0, 0)

    def __str__(self) -> str:
        kind = "deconvolution" if self.transposed else "convolution"
        extras = "+bias" * self.has_bias + "+residual" * self.has_residual
        shown = f"{'x'.join(map(str, self.x))} by {'x'.join(map(str, self.w))}"
        return f"cudnn.{kind}({self.dtype} {shown}{extras}{'+' * bool(self.activation)}{self.activation})"


@dataclass(frozen=True, slots=True)
class Attention:
    """Y = softmax(scale Q K^T [+ bias], causal or not) V for (batch, heads, length, size), by cuDNN.

    Attributes:
        heads, kv_heads: of Q, and of K and V (fewer: grouped queries).
        causal: a query sees keys up to its own position, counted from the end of both.
        bias_shape: of an additive mask that broadcasts; () for none.
        strides: of Q, K, V and Y, in elements over (batch, heads, length); () where all of them are dense.
    """

    batch: int
    heads: int
    kv_heads: int
    q_length: int
    kv_length: int
    size: int
    v_size: int
    dtype: str
    scale: float
    causal: bool = False
    bias_shape: tuple[int, ...] = ()
    strides: tuple[tuple[int, int, int], ...] = ()

    @property
    def shapes(self) -> dict[str, tuple[int, int, int, int]]:
        """Return the extents of q, k, v and y."""
        return {
            "q": (self.batch, self.heads, self.q_length, self.size),
            "k": (self.batch, self.kv_heads, self.kv_length, self.size),
            "v": (self.batch, self.kv_heads, self.kv_length, self.v_size),
            "y": (self.batch, self.heads, self.q_length, self.v_size),
        }

    def __str__(self) -> str:
        return (
            f"cudnn.sdpa({self.dtype} {self.batch}x{self.heads}x{self.q_length}x{self.kv_length}x{self.size})"
        )


LibraryOp: TypeAlias = Matmul | Convolution | Attention


class LibraryRefusalError(BackendError):
    """A library does not do an operation on this card: another way to compute it is needed.

    Attributes:
        op: the operation.
    """

    def __init__(self, op: LibraryOp, why: str) -> None:
        super().__init__(why)
        self.op = op


@dataclass(frozen=True, slots=True)
class LibraryCall:
    """An operation of a library over tensors by their roles.

    Roles: a, b, bias, residual, d; x, w, bias, residual, y; q, k, v, bias, y.
    """

    op: LibraryOp
    tensors: tuple[tuple[str, Any], ...]

    @property
    def library(self) -> str:
        return "cublaslt" if isinstance(self.op, Matmul) else "cudnn"

    def __str__(self) -> str:
        return str(self.op)


DeviceCall: TypeAlias = Launch | LibraryCall


def pack_arguments(values: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Return (array of pointers to the arguments, what must stay alive), as the driver wants them.

    Args:
        values: addresses and ints as Python ints, and the other kinds of the module's table.
    """
    held: list[Any] = []
    for value in values:
        if isinstance(value, np.float64):
            held.append(ctypes.c_double(value))
        elif isinstance(value, float):
            held.append(ctypes.c_float(value))
        elif isinstance(value, tuple):
            held.append((ctypes.c_int64 * len(value))(*value))
        elif isinstance(value, ctypes.Array):
            held.append(value)
        else:
            held.append(ctypes.c_int64(value))
    pointers = (ctypes.c_void_p * max(1, len(held)))(*map(ctypes.addressof, held))
    return pointers, held


def grid_for(count: int, threads: int = 256, per_thread: int = 1) -> Extent:
    """Return a one-dimensional grid with a thread for every `per_thread` of `count` elements."""
    return (max(1, -(-count // (threads * per_thread))), 1, 1)
