"""Resize and Upsample beside the reference, blocked and plain."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxref.kernels.numba.resize  # noqa: F401 - registers
import pytest
from lowered import check_lowered

from onnxref.lowering import Blocked, Op, Operand, Site, Unsupported, find_lowering
from onnxref.native import target

LANES = target().lanes

HELD = {"layouts": {0: Blocked(LANES, (1, 0, 0, 1))}, "output_layouts": {0: Blocked(LANES, (1, 1, 1, 1))}}


def image(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    random = np.random.default_rng(sum(shape))
    return (random.standard_normal(shape) * 40).astype(dtype)


WAYS: list[dict[str, Any]] = [
    {"mode": "nearest"},
    {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    {"mode": "linear"},
    {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    {"mode": "cubic", "exclude_outside": 1},
    {"mode": "linear", "antialias": 1},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
@pytest.mark.parametrize("scales", [(2.0, 2.0), (1.0, 3.0), (0.6, 1.7), (0.3, 1.0)])
def test_scales(way: dict[str, Any], scales: tuple[float, float]) -> None:
    x = image((2, LANES + 3, 7, 9))
    inputs = [x, None, np.array((1, 1, *scales), np.float32)]
    tolerance = {} if way["mode"] == "nearest" else {"rtol": 1e-5, "atol": 2e-4}
    for parallel in (False, True):
        check_lowered("Resize", inputs, way, constants=(2,), parallel=parallel, **tolerance)
        check_lowered("Resize", inputs, way, constants=(2,), parallel=parallel, **tolerance, **HELD)


@pytest.mark.parametrize("shape", [(9,), (3, 9), (1, 2, 9), (1, 2, 3, 2, 9)])
def test_ranks(shape: tuple[int, ...]) -> None:
    sizes = np.array((*shape[:-1], 14), np.int64)
    for mode in ("nearest", "linear"):
        inputs = [image(shape), None, None, sizes]
        check_lowered("Resize", inputs, {"mode": mode}, constants=(3,), rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("dtype", ["float64", "float16", "uint8", "int8"])
def test_types(dtype: str) -> None:
    x = image((1, 2, 6, 5), dtype)
    for mode in ("nearest", "linear", "cubic"):
        inputs = [x, None, np.array((1, 1, 2.5, 1.5), np.float32)]
        check_lowered("Resize", inputs, {"mode": mode}, constants=(2,), rtol=1e-3, atol=1e-2)


def test_infinity_at_weight_zero_adds_nothing() -> None:
    x = image((1, LANES, 5, 5))
    x[0, 0, 2, 2] = np.inf
    x[0, 1, 1, 3] = np.nan
    way = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    inputs = [x, None, None, np.array((1, LANES, 9, 9), np.int64)]
    for held in ({}, HELD):
        check_lowered("Resize", inputs, way, constants=(3,), rtol=1e-5, atol=2e-4, **held)


def test_older_versions() -> None:
    x = image((1, LANES, 4, 5))
    scales = np.array((1, 1, 2, 2), np.float32)
    for mode in ("nearest", "linear"):
        for held in ({}, HELD):
            options = {"rtol": 1e-5, "atol": 2e-4, **held}
            way = {"mode": mode}
            check_lowered("Upsample", [x, scales], way, opset=9, constants=(1,), **options)
            check_lowered("Resize", [x, scales], way, opset=10, constants=(1,), **options)
            check_lowered("Upsample", [x], {**way, "scales": (1.0, 1.0, 2.0, 2.0)}, opset=7, **options)
            sides = {"height_scale": 2.0, "width_scale": 2.0}
            check_lowered("Upsample", [x], {**way, **sides}, opset=1, **options)
            inputs = [x, np.zeros(0, np.float32), scales]
            for opset in (11, 13, 18):
                check_lowered("Resize", inputs, way, opset=opset, constants=(1, 2), **options)


def test_what_is_refused() -> None:
    x, sizes = Operand((1, 2, 4, 4), np.dtype(np.float32)), Operand((4,), np.dtype(np.int64))
    y = Operand((1, 2, 8, 8), np.dtype(np.float32))
    found = find_lowering("numba", "", "Resize", 19)
    assert found is not None
    with pytest.raises(Unsupported):
        found.emit(Site(Op("Resize", [x, None, None, sizes], [y])), x, None, None, sizes)
    sizes.constant = np.array((1, 4, 8, 8), np.int64)
    with pytest.raises(Unsupported):
        found.emit(Site(Op("Resize", [x, None, None, sizes], [y])), x, None, None, sizes)
