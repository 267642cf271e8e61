"""Recurrent layers on the GPU: RNN, GRU, LSTM.

One product of all inputs with W comes first. Then
    recurrent_scan.cu    runs all steps of a small layer in one launch: a block for each sequence and
                         direction keeps R in registers and shared memory;
    recurrent_step.cu    is a launch for each step of others; its products with R are cuBLASLt's where many
                         sequences share them in float32 and float64, else its own.

States are kept in float32 (float64 for float64) from step to step. Tolerance against the reference: 2e-5 of
the largest value for float32, 1e-12 for float64; 8 units in the last place for types of 16 bits, whose
products with W are rounded. With `precision="strict"` no result depends on the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from onnxref.gpu import CTYPES, Matmul, cuda_kernel
from onnxref.lowering import Fault, Operand, Packed, Scratch, Site, Unsupported

from ..common.recurrent import RECURRENT, Layer
from ._products import epilogue_defines
from ._rows import FLOATS, power_above
from ._values import fault_of

_CODE: Final = "onnxref.kernels.cupy.code"
_RNN, _GRU, _LINEAR_GRU, _LSTM = range(4)
_MOST_STEPS = 4096  # that get a launch each
_MOST_THREADS = 512  # of a block that runs all steps
_KEPT: Final = {256: 160, 384: 120, 512: 84}  # threads -> weights that each keeps in registers
_MOST_SHARED = 93 * 1024  # bytes for weights, beside a few KiB for states
_MANY_SEQUENCES = 16  # from which a product of states with R pays
_MANY_BLOCKS = 264

_ACTIVATIONS: Final = (  # by their numbers in kernels
    *("relu", "tanh", "sigmoid", "affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid"),
    *("elu", "softsign", "softplus"),
)


@dataclass(eq=False)
class _Layer(Layer):
    """A layer as its kernels see it.

    Attributes:
        kind: of the kernels.
    """

    kind: int

    @classmethod
    def of(cls, layer: Layer) -> _Layer:
        kind = {1: _RNN, 3: _LINEAR_GRU if layer.is_linear else _GRU, 4: _LSTM}[layer.gates]
        return cls(**vars(layer), kind=kind)

    @property
    def wide(self) -> int:
        """Bytes of the type of states."""
        return 8 if self.x.dtype == np.float64 else 4

    @property
    def fault(self) -> Fault | int:
        """Where kernels report wrong lengths."""
        return fault_of(self.lengths, 0, self.steps)

    @property
    def outputs(self) -> tuple[Operand | int, ...]:
        """Y, Y_h and Y_c, 0 where nothing wants them."""
        y, last_h, last_c = (*self.site.outputs, None, None, None)[:3]
        return y or 0, last_h or 0, (last_c if self.kind == _LSTM else None) or 0

    def sizes(self, first: int) -> tuple[int, ...]:
        """Return what kernels take as `Sizes`."""
        s, n, h, d = self.steps, self.batch, self.hidden, self.directions
        if self.batch_first:
            places = (1, s, d * h, s * d * h, h, d * h, h)
        else:
            places = (n, 1, d * n * h, h, n * h, h, n * h)
        return s, n, h, first, self.reverse, *places

    def constants(self, first: int) -> tuple[np.float64, ...]:
        """Return what kernels take as alphas and betas of three activations, and as the limit."""
        held = self.functions[first].constants
        return *map(np.float64, (*held, *(0.0,) * (6 - len(held)))), np.float64(self.limit)

    def defines(self, first: int) -> dict[str, str | int]:
        numbers = [_ACTIVATIONS.index(name) for name in self.functions[first].names]
        functions = dict(zip("FGH", (*numbers, 0, 0), strict=False))
        kind, coupled = self.kind, int(self.is_coupled)
        return {"T": CTYPES[self.x.dtype.name], "KIND": kind, "COUPLED": coupled, **functions}

    def emit(self) -> None:
        """Emit the layer."""
        if self.batch == 0:
            return
        xw = self.project()
        threads, parts = self.scan_block()
        few = self.site.precision == "strict" or self.batch * self.directions <= _MANY_BLOCKS
        if threads and (few or self.steps > _MOST_STEPS):
            self.scan(xw, threads, parts)
        elif self.steps > _MOST_STEPS:
            raise Unsupported(f"more than {_MOST_STEPS} steps of a large layer")
        else:
            self.step_by_step(xw)

    # The product with W ---------------------------------------------------------------------------

    def project(self) -> Scratch:
        """Emit the product of all inputs with W; return `(D, S * N, G * H)`, rows in the order of X."""
        rows, columns = self.steps * self.batch, self.gates * self.hidden
        goal = self.site.scratch(max(1, self.directions * rows * columns) * self.x.dtype.itemsize)
        if rows == 0:
            return goal
        strides = (0, columns * self.inputs, rows * columns)
        self.multiply(self.x, self.w, goal, (rows, columns, self.inputs), strides)
        return goal

    def multiply(
        self,
        a: Operand | Scratch,
        b: Operand,
        goal: Scratch,
        extents: tuple[int, int, int],
        strides: tuple[int, int, int],
        offset: int = 0,
    ) -> None:
        """Emit A B^T for all directions; B begins `offset` elements into its own."""
        m, n, k = extents
        dtype, weights = self.x.dtype, b + offset * b.dtype.itemsize
        if "cublaslt" in self.site.libraries and self.site.precision != "strict":
            may_round = dtype == np.float32 and self.site.precision == "tf32"
            op = Matmul(
                *(m, n, k, dtype.name, False, True), batch=self.directions, strides=strides, tf32=may_round
            )
            self.site.library(op, a=a, b=weights, d=goal)
            return
        kernel = cuda_kernel(
            *(_CODE, "gemm.cu", "gemm"),
            **epilogue_defines(dtype.name),
            INDEX="int" if max(m, n) * k < 2**31 - 2**20 else "long long",
            TRANS_A=0,
            TRANS_B=1,
            TILE=64,
            STEPS=16,
        )
        one, none = (np.float64(1), np.float64(0)) if dtype == np.float64 else (1.0, 0.0)
        self.site.launch(
            kernel,
            *(a, weights, goal, 0, 0, self.table(strides)),
            *(m, n, k, 0, 0, 0, one, none, np.float64(0), np.float64(0)),
            grid=(-(-m // 64) * -(-n // 64) * self.directions, 1, 1),
        )

    def table(self, strides: tuple[int, int, int]) -> Packed:
        """Return where the matrices of each direction begin in A and in B."""
        directions = self.directions
        return self.site.pack(
            (),
            ("matrix table of directions", directions, strides),
            lambda: np.arange(directions, dtype=np.int64)[:, None] * np.array(strides[:2], np.int64),
        )

    # All steps in one launch ----------------------------------------------------------------------

    def scan_block(self) -> tuple[int, int]:
        """Return the threads of a block that holds R and how many share a row of it; 0 where none can."""
        if self.wide == 8 or self.hidden > 512:
            return 0, 0
        rows = self.gates * self.hidden
        for parts in (4, 2, 1):
            threads = max(32, -(-max(rows * parts, self.hidden) // 32) * 32)
            if threads > _MOST_THREADS:
                continue
            depth, kept = self.depths(threads, parts)
            if 4 * threads * (depth - kept) <= _MOST_SHARED:
                return threads, parts
        return 0, 0

    def depths(self, threads: int, parts: int) -> tuple[int, int]:
        """Return the weights of a thread, and how many of them are in registers."""
        depth = -(-self.hidden // (4 * parts)) * 4
        most = next(kept for bound, kept in _KEPT.items() if threads <= bound)
        return depth, min(depth, most)

    def scan(self, xw: Scratch, threads: int, parts: int) -> None:
        depth, kept = self.depths(threads, parts)
        for first, count in self.pieces:
            defines = {
                **self.defines(first),
                "THREADS": threads,
                "PARTS": parts,
                "DEPTH": depth,
                "KEPT": kept,
            }
            self.site.launch(
                cuda_kernel(_CODE, "recurrent_scan.cu", "scan", **defines),
                *(xw, self.r, self.b or 0, self.p or 0, self.lengths or 0),
                *(self.initial_h or 0, self.initial_c or 0),
                *self.outputs,
                *(self.fault, self.sizes(first), *self.constants(first)),
                grid=(self.batch * count, 1, 1),
                block=(threads, 1, 1),
                shared=4 * threads * (depth - kept),
            )

    # A launch for each step -----------------------------------------------------------------------

    def step_by_step(self, xw: Scratch) -> None:
        count = self.directions * self.batch * self.hidden
        states = [self.site.scratch(count * self.wide) for _ in range(2)]
        memory = self.site.scratch(count * self.wide) if self.kind == _LSTM else None
        update, reset = self.site.scratch(count * self.wide), self.site.scratch(count * self.wide)
        product = self.site.scratch(count * self.gates * self.wide) if self.by_products else None
        self.site.launch(
            cuda_kernel(_CODE, "recurrent_step.cu", "begin_states", **self.step_defines(0, 0)),
            *(self.initial_h or 0, self.initial_c or 0, states[0], memory or 0, self.sizes(0), count),
            grid=(-(-count // 256), 1, 1),
        )
        for number in range(self.steps):
            before, after = states[number % 2], states[(number + 1) % 2]
            for stage in (1, 2) if self.kind == _GRU else (0,):
                if product is not None:
                    self.multiply_states(before if stage != 2 else reset, product, stage)
                for first, directions in self.pieces:
                    work = (xw, product or 0, before, after, memory or 0, update, reset)
                    self.step(work, number, stage, first, directions)

    @property
    def by_products(self) -> bool:
        """Whether the products with R are by cuBLASLt: states have the type of R then."""
        fits = "cublaslt" in self.site.libraries and self.site.precision != "strict"
        return fits and self.x.dtype.itemsize >= 4 and self.batch >= _MANY_SEQUENCES

    def multiply_states(self, vectors: Scratch, goal: Scratch, stage: int) -> None:
        """Emit the product of states with the gates of R that a stage needs."""
        h, n = self.hidden, self.batch
        columns = h * {0: self.gates, 1: 2, 2: 1}[stage]
        strides = (n * h, self.gates * h * h, n * columns)
        self.multiply(vectors, self.r, goal, (n, columns, h), strides, 2 * h * h if stage == 2 else 0)

    def step_defines(self, first: int, stage: int) -> dict[str, str | int]:
        rows = 1 if self.by_products or self.site.precision == "strict" else min(4, power_above(self.batch))
        vec = 1 if self.by_products else math.gcd(16 // self.x.dtype.itemsize, self.hidden)
        shape = {"PRODUCTS": int(self.by_products), "ROWS": rows, "VEC": vec}
        return {**self.defines(first), **shape, "STAGE": stage}

    def step(
        self, work: tuple[Scratch | int, ...], number: int, stage: int, first: int, directions: int
    ) -> None:
        """Emit a launch of one step.

        Args:
            work: X W^T, products with R, states before and after, cells, update gates, what is reset.
        """
        xw, *rest = work
        defines = self.step_defines(first, stage)
        count = directions * self.batch * self.hidden
        tiles = -(-self.batch // int(defines["ROWS"]))
        blocks = -(-count // 256) if self.by_products else -(-self.hidden // 8) * tiles * directions
        self.site.launch(
            cuda_kernel(_CODE, "recurrent_step.cu", "one_step", **defines),
            *(xw, self.r, self.b or 0, self.p or 0, self.lengths or 0),
            *rest,
            *self.outputs,
            *(self.fault, self.sizes(first), number, count, *self.constants(first)),
            grid=(blocks, 1, 1),
        )


def _emit(site: Site, layer: Layer) -> None:
    if layer.x.dtype.name not in FLOATS or layer.steps == 0:
        raise Unsupported(f"no steps, or X is {layer.x}")
    _Layer.of(layer).emit()


RECURRENT.register("cupy", _emit)
