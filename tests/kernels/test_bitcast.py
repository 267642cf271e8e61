"""BitCast: the bits of every type as those of every other one of its width."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from helpers import run_op

from onnxref.dtypes import Array, ElementType, to_numpy
from onnxref.errors import KernelError

T = ElementType
WIDTHS = {
    2: [T.INT2, T.UINT2],
    4: [T.INT4, T.UINT4, T.FLOAT4E2M1],
    8: [
        T.INT8,
        T.UINT8,
        T.BOOL,
        T.FLOAT8E4M3FN,
        T.FLOAT8E4M3FNUZ,
        T.FLOAT8E5M2,
        T.FLOAT8E5M2FNUZ,
        T.FLOAT8E8M0,
    ],
    16: [T.INT16, T.UINT16, T.FLOAT16, T.BFLOAT16],
    32: [T.INT32, T.UINT32, T.FLOAT],
    64: [T.INT64, T.UINT64, T.DOUBLE, T.COMPLEX64],
    128: [T.COMPLEX128],
}


class TestBitCast:
    @pytest.mark.parametrize(
        ("source", "target"), [(a, b) for types in WIDTHS.values() for a in types for b in types]
    )
    def test_bits_survive(self, source: ElementType, target: ElementType) -> None:
        dtype = to_numpy(source)
        width = next(w for w, types in WIDTHS.items() if source in types)
        rng = np.random.default_rng(0)
        raw = rng.integers(0, 2 ** min(width, 8), size=(6, 4, dtype.itemsize), dtype=np.uint8)
        x = raw.view(dtype)[..., 0]
        y = run_op("BitCast", x, opset=26, to=target)
        assert (y.dtype, y.shape) == (to_numpy(target), x.shape)
        assert y.tobytes() == x.tobytes()
        strided = run_op("BitCast", x[::2, ::-1], opset=26, to=target)
        assert strided.tobytes() == x[::2, ::-1].tobytes()
        scalar = run_op("BitCast", np.asarray(x[0, 0]), opset=26, to=target)
        assert (scalar.dtype, scalar.shape) == (to_numpy(target), ())

    def test_values(self) -> None:
        assert run_op("BitCast", np.float32([1]), opset=26, to=T.INT32).tolist() == [0x3F800000]
        nibble = run_op("BitCast", np.array([-1, -8, 7]).astype(ml_dtypes.int4), opset=26, to=T.UINT4)
        assert nibble.astype(int).tolist() == [15, 8, 7]

    @pytest.mark.parametrize(
        ("x", "to", "message"),
        [
            (
                np.zeros(1, np.float32),
                T.INT64,
                r"to must be 32 bits wide, as the input \(got int64, 64 bits\)",
            ),
            (np.zeros(1, np.uint8), T.UINT4, r"to must be 8 bits wide, as the input \(got uint4, 4 bits\)"),
            (np.zeros(1, np.uint8), T.FLOAT6E2M3, "got float6e2m3, 6 bits"),
            (np.zeros(1, np.int64), T.STRING, r"must not be from or to string \(got int64 to string\)"),
            (np.array(["a"], object), T.INT64, r"must not be from or to string \(got string to int64\)"),
            (np.zeros(1, np.float32), 99, r"to must be an element type \(got 99\)"),
        ],
    )
    def test_bad_target(self, x: Array, to: int, message: str) -> None:
        with pytest.raises(KernelError, match=message):
            run_op("BitCast", x, opset=26, to=to)
