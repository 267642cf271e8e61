"""Convolutions and attention by NVIDIA's cuDNN, through its own Python front end.

Every operation is a graph of cuDNN: tensors with extents and strides, operations between them, and a plan
that cuDNN's heuristics choose. Plans are kept on disk, for making one takes from milliseconds to seconds.

Engines that are not allowed, by cuDNN's numerical notes:
    NONDETERMINISTIC, REDUCED_PRECISION_REDUCTION   always
    WINOGRAD, FFT                                   always: they trade accuracy for speed
    TENSOR_CORE, DOWN_CONVERT_INPUTS                for float32 unless TF32 is asked for: engines that round
                                                    float32 to TF32 carry both
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError
from ..native import load_code, store_code
from ._installed import installed_libraries
from ._launch import Attention, Convolution, LibraryRefusalError

_OLDEST = 90000  # cuDNN 9.0
_SYMBOL = "cudnn"  # what a kept plan is called
_TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BFLOAT16"}
_UIDS = {role: i for i, role in enumerate(("x", "w", "bias", "residual", "y", "q", "k", "v"), 1)}
_INACCURATE = ("NONDETERMINISTIC", "REDUCED_PRECISION_REDUCTION", "WINOGRAD", "FFT")
_TF32 = ("TENSOR_CORE", "DOWN_CONVERT_INPUTS")


def load_cudnn() -> Any:
    """Return the front end, with cuDNN itself loaded.

    Raises:
        MissingDependencyError: one of both is not installed, or cuDNN is older than 9.
    """
    try:
        import cudnn
    except (ImportError, OSError, AssertionError) as error:  # the front end looks for cuDNN with an assert
        raise MissingDependencyError(
            f"cuDNN needs its front end: pip install nvidia-cudnn-frontend ({error})"
        ) from error
    try:
        version = cudnn.backend_version()
    except RuntimeError as error:
        raise MissingDependencyError(
            f"cuDNN is not installed: pip install nvidia-cudnn-cu13 (or nvidia-cudnn-cu12) ({error})"
        ) from error
    if version < _OLDEST:
        raise MissingDependencyError(f"cuDNN 9 or later is needed (found version {version})")
    _load_runtime()
    return cudnn


@cache
def _load_runtime() -> None:
    """Load the CUDA runtime, which attention's checks look for by its name alone.

    It refuses to choose where the loader finds two, so pip's is loaded only where the loader finds none.
    """
    found = installed_libraries("cudart", ("cu13", 13), ("cuda_runtime", 12))
    for name in sorted(found, key=lambda name: "/" in name):
        with contextlib.suppress(OSError):
            ctypes.CDLL(name)
            return


class Cudnn:
    """One handle of cuDNN on one stream.

    Args:
        workspace: address of memory of the device that operations may use one after the other.
        workspace_bytes: its size; plans that need more are not considered.
        stream: address of the stream that all work goes to.
        device: the card's name, on which plans depend; asked of CuPy if None.
        library: the front end, or what stands in for it.

    Raises:
        MissingDependencyError: it is not installed, or cannot work with this card and driver.
    """

    def __init__(
        self,
        workspace: int,
        workspace_bytes: int,
        stream: int,
        device: str | None = None,
        library: Any | None = None,
    ) -> None:
        self._dnn = load_cudnn() if library is None else library
        self._workspace = workspace
        self._workspace_bytes = workspace_bytes
        self._device = _device_name() if device is None else device
        try:
            self._handle = self._dnn.create_handle()
        except RuntimeError as error:
            raise MissingDependencyError(f"cuDNN is no use here: {error}") from error
        self._dnn.set_stream(handle=self._handle, stream=stream)
        self._plans: dict[Convolution | Attention, Any] = {}
        self._errors = (RuntimeError, self._dnn.cudnnGraphNotSupportedError)
        weakref.finalize(self, self._dnn.destroy_handle, self._handle)

    def prepare(self, op: Convolution | Attention, tensors: Mapping[str, int]) -> Callable[[], None]:
        """Return an operation over addresses, ready to run or to be captured.

        Args:
            tensors: addresses by role, see `LibraryCall`.

        Raises:
            LibraryRefusalError: cuDNN does not do it; the message names the operation.
        """
        plan = self._plans.get(op)
        if plan is None:
            plan = self._plans[op] = self._plan(op)
        addresses = {_UIDS[role]: address for role, address in tensors.items()}
        return PreparedGraph(plan, addresses, self._workspace, self._handle, self)

    def _plan(self, op: Convolution | Attention) -> Any:
        """Return a plan, from the disk where it can be."""
        if op.dtype not in _TYPES or (isinstance(op, Attention) and op.dtype == "float32"):
            raise LibraryRefusalError(op, f"{op}: cuDNN does not do it in {op.dtype}")
        key = self._key(op)
        kept = load_code(key)
        if kept is not None and (plan := self._restored(kept[1])) is not None:
            return plan
        try:
            plan = self._built(op)
        except (*self._errors, ValueError) as error:
            why = f"{op}: cuDNN {self._dnn.backend_version()} says: {error}"
            raise LibraryRefusalError(op, why) from error
        with contextlib.suppress(*self._errors):  # an engine that cannot be kept is planned again next time
            store_code(key, _SYMBOL, bytes(plan.serialize()))
        return plan

    def _key(self, op: Convolution | Attention) -> str:
        versions = (self._dnn.__version__, self._dnn.backend_version(), _own_text())
        parts = (op, versions, self._device, self._workspace_bytes)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:40]

    def _restored(self, kept: bytes) -> Any | None:
        """Return a kept plan; None where cuDNN does not take it back, after an update of the driver, say."""
        plan = self._dnn.pygraph(handle=self._handle)
        try:
            plan.deserialize(self._handle, list(kept))
        except self._errors:
            return None
        return plan if plan.get_workspace_size() <= self._workspace_bytes else None

    def _built(self, op: Convolution | Attention) -> Any:
        """Describe an operation and choose a plan for it."""
        dnn = self._dnn
        dtype = getattr(dnn.data_type, _TYPES[op.dtype])
        graph = dnn.pygraph(
            io_data_type=dtype,
            intermediate_data_type=dnn.data_type.FLOAT,
            compute_data_type=dnn.data_type.FLOAT,
            handle=self._handle,
        )
        describe = _Describe(dnn, graph, dtype)
        forbidden = ["NONDETERMINISTIC"]
        if isinstance(op, Convolution):
            describe.convolution(op)
            forbidden = [*_INACCURATE, *(_TF32 if op.dtype == "float32" and not op.tf32 else ())]
        else:
            describe.attention(op)
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([dnn.heur_mode.A, dnn.heur_mode.FALLBACK])
        graph.deselect_numeric_notes([getattr(dnn.numerical_note, note) for note in forbidden])
        graph.deselect_workspace_greater_than(self._workspace_bytes)
        graph.check_support()
        graph.build_plans(dnn.build_plan_policy.HEURISTICS_CHOICE)
        return graph


@dataclass(frozen=True, slots=True)
class PreparedGraph:
    """A plan and the addresses it works on; calling it adds it to the stream.

    Attributes:
        owner: of the handle, which must outlive it.
    """

    plan: Any
    addresses: Mapping[int, int]
    workspace: int
    handle: int
    owner: Cudnn

    def __call__(self) -> None:
        self.plan.execute(self.addresses, self.workspace, handle=self.handle)


@dataclass(frozen=True, slots=True)
class _Describe:
    """Adds tensors and operations to a graph."""

    dnn: Any
    graph: Any
    dtype: Any

    def tensor(self, role: str, extents: Sequence[int], strides: Sequence[int]) -> Any:
        return self.graph.tensor(
            name=role, dim=list(extents), stride=list(strides), data_type=self.dtype, uid=_UIDS[role]
        )

    def result(self, made: Any, extents: Sequence[int], strides: Sequence[int]) -> None:
        """Make a tensor the graph's output, y."""
        made.set_output(True).set_data_type(self.dtype).set_dim(list(extents)).set_stride(list(strides))
        made.set_uid(_UIDS["y"])

    def convolution(self, op: Convolution) -> None:
        axes = len(op.x) - 2
        pitch_x, pitch_y, pitch_residual = op.pitches
        strides = last_strides(op.y, pitch_y)
        x = self.tensor("x", op.x, last_strides(op.x, pitch_x))
        w = self.tensor("w", op.w, last_strides(op.w))
        windows = {
            "pre_padding": list(op.pads[:axes]),
            "post_padding": list(op.pads[axes:]),
            "stride": list(op.strides),
            "dilation": list(op.dilations),
            "compute_data_type": self.dnn.data_type.FLOAT,
        }
        if op.transposed:
            made = self.graph.conv_dgrad(loss=x, filter=w, name="convolution", **windows)
            made.set_dim(list(op.y)).set_stride(list(strides))  # several sizes have this gradient
        else:
            made = self.graph.conv_fprop(image=x, weight=w, name="convolution", **windows)
        # Residual, bias, activation: cuDNN's ready-made kernels for fused convolutions know this order.
        if op.has_residual:
            residual = self.tensor("residual", op.y, last_strides(op.y, pitch_residual))
            made = self.graph.add(a=made, b=residual, name="add residual")
        if op.has_bias:
            shape = (1, op.y[1], *(1,) * axes)
            made = self.graph.add(a=made, b=self.tensor("bias", shape, last_strides(shape)), name="add bias")
        if op.activation:
            made = self.graph.relu(input=made, name="activation")
        self.result(made, op.y, strides)

    def attention(self, op: Attention) -> None:
        # It takes any strides but that of the last dimension, which must be 1.
        given = ((*strides, 1) for strides in op.strides)
        strides = dict(
            zip(op.shapes, given if op.strides else map(row_strides, op.shapes.values()), strict=True)
        )
        options: dict[str, Any] = {
            role: self.tensor(role, op.shapes[role], strides[role]) for role in ("q", "k", "v")
        }
        if op.bias_shape:
            shape = (1,) * (4 - len(op.bias_shape)) + op.bias_shape
            options["bias"] = self.tensor("bias", shape, row_strides(shape))
        if op.causal:
            # Counted from the end; of equal lengths from the begin too, which more engines know.
            alignments = self.dnn.diagonal_alignment
            same = op.q_length == op.kv_length
            options["diagonal_alignment"] = alignments.TOP_LEFT if same else alignments.BOTTOM_RIGHT
            options["diagonal_band_right_bound"] = 0
        made, _ = self.graph.sdpa(name="attention", attn_scale=op.scale, generate_stats=False, **options)
        self.result(made, op.shapes["y"], strides["y"])


def last_strides(extents: Sequence[int], pitch: int = 0) -> tuple[int, ...]:
    """Return the strides in elements of (N, C, axes...) that lies with the channels last.

    Args:
        pitch: from pixel to pixel; 0 where they lie one behind the other.
    """
    n, c, *axes = extents
    batch, *rest, channel = row_strides((n, *axes, pitch or c))
    return (batch, channel, *rest)


def row_strides(extents: Sequence[int]) -> tuple[int, ...]:
    """Return the strides in elements of a C-contiguous tensor."""
    strides = [1]
    for extent in reversed(extents[1:]):
        strides.insert(0, strides[0] * extent)
    return tuple(strides)


@cache
def _own_text() -> str:
    """Return a digest of this file: a kept plan is of the graph that it described."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def _device_name() -> str:
    """Return the name of CuPy's current device."""
    import cupy

    runtime = cupy.cuda.runtime
    return bytes(runtime.getDeviceProperties(runtime.getDevice())["name"]).decode()
