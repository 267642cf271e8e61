"""What cuBLASLt and cuDNN compute, by NumPy: the operations of `onnxref.gpu` over raw addresses."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from onnxref.dtypes import Array
from onnxref.gpu import Attention, Convolution, LibraryOp, Matmul
from onnxref.gpu._cudnn import row_strides

_TYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16)}


def run_library(op: LibraryOp, tensors: Mapping[str, int]) -> None:
    """Do what the library would; see the operation's docstring for what that is."""
    with np.errstate(all="ignore"):
        _run(op, tensors)


def _run(op: LibraryOp, tensors: Mapping[str, int]) -> None:
    match op:
        case Matmul():
            _matmul(op, tensors)
        case Convolution():
            _convolution(op, tensors)
        case Attention():
            _attention(op, tensors)


def view(address: int, count: int, dtype: str) -> Array:
    """Return `count` elements at an address."""
    found = _TYPES.get(dtype) or np.dtype(dtype)
    raw = np.ctypeslib.as_array((ctypes.c_uint8 * (count * found.itemsize)).from_address(address))
    return raw.view(found)


def strided_view(address: int, shape: Sequence[int], steps: Sequence[int], dtype: str) -> Array:
    """Return a tensor at an address, with steps in elements."""
    count = 1 + sum((n - 1) * step for n, step in zip(shape, steps, strict=True)) if 0 not in shape else 0
    flat = view(address, count, dtype)
    return np.lib.stride_tricks.as_strided(flat, shape, [step * flat.itemsize for step in steps])


def _matmul(op: Matmul, tensors: Mapping[str, int]) -> None:
    result = "int32" if op.dtype == "int8" else op.dtype
    if op.dtype == "int8":
        # What cuBLASLt's integer kernels want.
        assert op.k % 4 == 0, "int8 products need a multiple of 4 steps"
    acc = {"int8": np.int32, "float64": np.float64}.get(op.dtype, np.float32)

    def matrices(role: str, rows: int, columns: int, place: int, dtype: str) -> Array:
        pitch = op.pitches[place]
        if role == "residual" and op.residual_pitch is not None:
            pitch = op.residual_pitch
        stride, pitch = op.strides[place], pitch or columns
        assert pitch >= columns, f"{role} has rows of {columns} at every {pitch}"
        steps = (stride, pitch, 1)
        return strided_view(tensors[role], (op.batch, rows, columns), steps, dtype)

    a = matrices("a", *((op.k, op.m) if op.trans_a else (op.m, op.k)), 0, op.dtype)
    b = matrices("b", *((op.n, op.k) if op.trans_b else (op.k, op.n)), 1, op.dtype)
    a = (a.swapaxes(1, 2) if op.trans_a else a).astype(acc)
    b = (b.swapaxes(1, 2) if op.trans_b else b).astype(acc)
    d = a @ b
    if op.alpha != 1:
        d = d * acc(op.alpha)
    if op.has_bias:
        d = d + view(tensors["bias"], op.n, result).astype(acc)
    if op.has_residual:
        d = d + matrices("residual", op.m, op.n, 2, result).astype(acc)
    if op.epilogue == "Relu":
        d = np.maximum(d, 0)
    elif op.epilogue == "Gelu":
        d = 0.5 * d * (1 + np.tanh(math.sqrt(2 / math.pi) * (d + 0.044715 * d**3)))
    matrices("d", op.m, op.n, 2, result)[...] = d.astype(result if result != "bfloat16" else _TYPES[result])


def _last(address: int, shape: tuple[int, ...], dtype: str, pitch: int = 0) -> Array:
    """Return a tensor (N, C, spatial...) that lies with the channels last, pixels so many elements apart."""
    lying, pitch = (shape[0], *shape[2:], shape[1]), pitch or shape[1]
    assert pitch >= shape[1], f"{shape[1]} channels at every {pitch}"
    steps = [math.prod(lying[i + 1 : -1]) * pitch for i in range(len(lying) - 1)]
    return np.moveaxis(strided_view(address, lying, (*steps, 1), dtype), -1, 1)


def _convolution(op: Convolution, tensors: Mapping[str, int]) -> None:
    pitch_x, pitch_y, pitch_residual = op.pitches
    x = _last(tensors["x"], op.x, op.dtype, pitch_x).astype(np.float32)
    w = _last(tensors["w"], op.w, op.dtype).astype(np.float32)
    rank = len(op.x) - 2
    y = np.zeros(op.y, np.float32)
    g, channels, outputs = op.groups, op.x[1] // op.groups, op.y[1] // op.groups
    for tap in itertools.product(*map(range, op.w[2:])):
        if op.transposed:
            _scatter_tap(op, x, w, y, tap)
            continue
        spans = []
        padded = np.pad(x, [(0, 0), (0, 0), *zip(op.pads[:rank], op.pads[rank:], strict=True)])
        for axis in range(rank):
            begin = tap[axis] * op.dilations[axis]
            spans.append(slice(begin, begin + (op.y[2 + axis] - 1) * op.strides[axis] + 1, op.strides[axis]))
        part = padded[(slice(None), slice(None), *spans)]
        for group in range(g):
            y[:, group * outputs : (group + 1) * outputs] += np.einsum(
                "nc...,mc->nm...",
                part[:, group * channels : (group + 1) * channels],
                w[(slice(group * outputs, (group + 1) * outputs), slice(None), *tap)],
            )
    if op.has_bias:
        y += view(tensors["bias"], op.y[1], op.dtype).astype(np.float32).reshape(1, -1, *[1] * rank)
    if op.has_residual:
        y += _last(tensors["residual"], op.y, op.dtype, pitch_residual).astype(np.float32)
    if op.activation == "Relu":
        y = np.maximum(y, 0)
    goal = _last(tensors["y"], op.y, op.dtype, pitch_y)
    goal[...] = y.astype(goal.dtype)


def _scatter_tap(op: Convolution, x: Array, w: Array, y: Array, tap: tuple[int, ...]) -> None:
    """Add what one tap of a transposed convolution (w: (C, M / groups, ...)) brings."""
    rank = len(op.x) - 2
    channels, outputs = op.x[1] // op.groups, op.y[1] // op.groups
    for place in itertools.product(*map(range, op.x[2:])):
        goal = tuple(place[i] * op.strides[i] + tap[i] * op.dilations[i] - op.pads[i] for i in range(rank))
        if any(not 0 <= goal[i] < op.y[2 + i] for i in range(rank)):
            continue
        for group in range(op.groups):
            inputs = slice(group * channels, (group + 1) * channels)
            part = x[(slice(None), inputs, *place)] @ w[(inputs, slice(None), *tap)]
            y[(slice(None), slice(group * outputs, (group + 1) * outputs), *goal)] += part


def _attention(op: Attention, tensors: Mapping[str, int]) -> None:
    lying = {}
    for i, (role, shape) in enumerate(op.shapes.items()):
        strides = (*op.strides[i], 1) if op.strides else row_strides(shape)
        # What cuDNN's engines want of types of 16 bits.
        assert tensors[role] % 16 == 0, f"{role} is not aligned"
        assert all(step and step % 8 == 0 for step in strides[:3]), f"{role} has rows that are not aligned"
        lying[role] = strided_view(tensors[role], shape, strides, op.dtype)
    q, k, v = (lying[role].astype(np.float32) for role in "qkv")
    k, v = (np.repeat(t, op.heads // op.kv_heads, axis=1) for t in (k, v))
    scores: Any = op.scale * (q @ k.swapaxes(2, 3))
    if op.bias_shape:
        scores = scores + view(tensors["bias"], math.prod(op.bias_shape), op.dtype).astype(
            np.float32
        ).reshape(op.bias_shape)
    if op.causal:
        rows = np.arange(op.q_length)[:, None] + op.kv_length - op.q_length
        scores = np.where(np.arange(op.kv_length) <= rows, scores, -np.inf)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    y = scores / scores.sum(-1, keepdims=True) @ v
    lying["y"][...] = y.astype(lying["y"].dtype)
