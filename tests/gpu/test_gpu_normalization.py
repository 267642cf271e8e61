"""Normalisations on the emulator, held to the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnxref.kernels.cupy.normalization  # noqa: F401
import pytest

from onnxref.dtypes import Array
from onnxref.lowering import Unsupported
from onnxref.registry import INTERNAL
from tests.lowered import reference

from .lowered import run_on_device


def dtype_of(name: str) -> Any:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def normal(shape: tuple[int, ...], name: str = "float32", seed: int = 0) -> Array:
    made = np.random.default_rng(seed).standard_normal(shape) * 2 + 1
    return made.astype(dtype_of(name))


def check(
    op_type: str,
    inputs: Sequence[Array | None],
    attributes: Mapping[str, Any],
    opset: int,
    *,
    domain: str = "",
    wanted: Sequence[bool] = (True,),
    last: bool = False,
) -> None:
    """Hold all wanted outputs to the tolerance in the lowerings' docstring."""
    expected = reference(op_type, inputs, attributes, opset, domain)
    outputs = [
        (y.shape, y.dtype) if is_wanted else None for y, is_wanted in zip(expected, wanted, strict=False)
    ]
    found = run_on_device(
        op_type, inputs, outputs, attributes, opset=opset, domain=domain,
        channels_last=[0] if last else [], outputs_last=[0] if last else [],
    )  # fmt: skip
    for got, want in zip(found, expected, strict=False):
        if got is None:
            continue
        eps = float(ml_dtypes.finfo(want.dtype).eps)
        tolerance = {"float32": 2e-5, "float64": 1e-12}.get(want.dtype.name, 3 * eps)
        np.testing.assert_allclose(
            got.astype(np.float64), want.astype(np.float64), rtol=tolerance, atol=tolerance
        )


# --- layer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 8, 33, 64, 130, 256, 260, 1028, 4104])
def test_layer_lengths(n: int) -> None:
    x, scale, b = normal((3, n)), normal((n,), seed=1), normal((n,), seed=2)
    check("LayerNormalization", [x, scale, b], {}, 17, wanted=(True, True, True))


@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("stash", [1, 11])
def test_layer_types(name: str, stash: int) -> None:
    x, scale, b = normal((5, 24), name), normal((24,), name, 1), normal((24,), name, 2)
    if name == "float64" and stash == 1:
        # The statistics are float32: so is the accuracy.
        (expected,) = reference("LayerNormalization", [x, scale, b], {}, 17)[:1]
        (found,) = run_on_device("LayerNormalization", [x, scale, b], [(x.shape, x.dtype)], {}, opset=17)
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
        return
    check("LayerNormalization", [x, scale, b], {"stash_type": stash}, 17, wanted=(True, True, True))


def test_layer_over_many_axes_without_bias() -> None:
    x = normal((2, 3, 4, 5))
    check(
        "LayerNormalization", [x, normal((4, 5))], {"axis": 2, "epsilon": 0.1}, 17, wanted=(True, False, True)
    )
    check("LayerNormalization", [x, normal((1, 1, 5))], {"axis": -1}, 17)


def test_layer_of_many_rows() -> None:
    check("LayerNormalization", [normal((132 * 16, 288)), normal((288,), seed=1)], {}, 17)


@pytest.mark.parametrize("op_type", ["LayerNormalization", "RMSNormalization"])
def test_rows_that_no_block_holds(op_type: str) -> None:
    x, scale = normal((2, 33000)), normal((33000,), seed=1)
    wanted = (True, True, True) if op_type == "LayerNormalization" else (True,)
    check(op_type, [x, scale], {}, 23, wanted=wanted)


def test_far_from_zero() -> None:
    check("LayerNormalization", [normal((3, 512)) + np.float32(100), normal((512,), seed=1)], {}, 17)


@pytest.mark.parametrize(
    ("name", "of_scale"), [("float32", "float32"), ("float16", "float32"), ("bfloat16",) * 2]
)
def test_rms(name: str, of_scale: str) -> None:
    check("RMSNormalization", [normal((4, 40), name), normal((40,), of_scale, 1)], {}, 23)


@pytest.mark.parametrize("wanted", [(True, True), (True, False)])
@pytest.mark.parametrize("name", ["float32", "float16"])
def test_skip(name: str, wanted: tuple[bool, ...]) -> None:
    x, skip, scale, b = (normal((3, 136) if i < 2 else (136,), name, i) for i in range(4))
    check("SkipLayerNormalization", [x, skip, scale, b], {}, 1, domain=INTERNAL, wanted=wanted)
    check("SkipRMSNormalization", [x, skip, scale], {"axis": 1}, 1, domain=INTERNAL, wanted=wanted)


def test_special_values() -> None:
    inf, nan = np.inf, np.nan
    x = np.array([[1, nan, 2, 3], [inf, 1, 2, 3], [0, 0, 0, 0], [-inf, inf, 0, 1]], np.float32)
    check("LayerNormalization", [x, np.ones(4, np.float32)], {}, 17, wanted=(True, True, True))
    check("RMSNormalization", [x, np.ones(4, np.float32)], {}, 23)
    check("LpNormalization", [x], {"p": 2}, 22)
    check("LpNormalization", [x], {"p": 1}, 22)
    check("MeanVarianceNormalization", [x], {"axes": (1,)}, 13)


def test_layer_refusals() -> None:
    x = normal((2, 3, 4))
    for scale, attributes, message in (
        (normal((3, 4)), {}, "not one element"),
        (normal((4,), "float16"), {}, "types"),
        (normal((4,)), {"stash_type": 10}, "another type"),
        (normal((4,)), {"axis": 3}, "axis must be in"),
    ):
        with pytest.raises(Unsupported, match=message):
            run_on_device("LayerNormalization", [x, scale], [(x.shape, x.dtype)], attributes, opset=17)


# --- groups --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 7), (1, 4, 6, 6), (2, 5, 12, 11), (1, 2, 150, 150), (2, 3)])
def test_instance(shape: tuple[int, ...]) -> None:
    scale, b = normal((shape[1],), seed=1), normal((shape[1],), seed=2)
    check("InstanceNormalization", [normal(shape), scale, b], {"epsilon": 0.01}, 22)


@pytest.mark.parametrize("name", ["float32", "float16", "float64"])
@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("last", [False, True])
def test_group(name: str, opset: int, last: bool) -> None:
    x, count = normal((2, 24, 5, 4), name), 3 if opset == 18 else 24
    attributes = {"num_groups": 3} | ({"stash_type": 11} if name == "float64" and opset > 18 else {})
    check(
        "GroupNormalization",
        [x, normal((count,), name, 1), normal((count,), name, 2)],
        attributes,
        opset,
        last=last,
    )


@pytest.mark.parametrize("last", [False, True])
def test_large_groups(last: bool) -> None:
    x = normal((1, 8, 100, 96))
    check(
        "GroupNormalization",
        [x, normal((8,), seed=1), normal((8,), seed=2)],
        {"num_groups": 2},
        21,
        last=last,
    )


@pytest.mark.parametrize("axes", [(0, 2, 3), (2, 3), (0,), (1,), (0, 1, 2, 3), (1, 3), ()])
def test_mean_variance(axes: tuple[int, ...]) -> None:
    check("MeanVarianceNormalization", [normal((3, 4, 5, 6))], {"axes": axes}, 13)


def test_mean_variance_of_long_pieces() -> None:
    check("MeanVarianceNormalization", [normal((3, 2, 130, 128))], {}, 13)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(("shape", "axis"), [((3, 40), 1), ((2, 7, 9), 1), ((9, 4100), 0), ((2, 5, 3), -3)])
def test_lp(shape: tuple[int, ...], axis: int, p: int) -> None:
    check("LpNormalization", [normal(shape)], {"axis": axis, "p": p}, 22)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    "attributes", [{"size": 5}, {"size": 4, "beta": 0.6, "alpha": 0.3, "bias": 2.0}, {"size": 99}]
)
@pytest.mark.parametrize("shape", [(2, 7, 3, 5), (1, 8, 4, 4)])
def test_local_response(shape: tuple[int, ...], attributes: dict[str, Any], last: bool) -> None:
    check("LRN", [normal(shape)], attributes, 13, last=last)


@pytest.mark.parametrize("name", ["float64", "float16"])
def test_local_response_types(name: str) -> None:
    check("LRN", [normal((1, 6, 8), name)], {"size": 3, "alpha": 0.1}, 13)
    check("LRN", [normal((1, 6, 8), name)], {"size": 3, "alpha": -3.0}, 13)


def test_empty() -> None:
    x, one = np.zeros((0, 4, 3), np.float32), np.ones(4, np.float32)
    check("InstanceNormalization", [x, one, one], {}, 22)
    check("LRN", [x], {"size": 3}, 13)
    check("LpNormalization", [x], {}, 22)
    check("MeanVarianceNormalization", [x], {"axes": (1,)}, 13)
    check("LayerNormalization", [x, np.ones(3, np.float32)], {}, 17)
