"""Attention on the emulator, held to the reference."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnxref.kernels.cupy import _attention_libraries

from onnxref.dtypes import Array
from onnxref.lowering import FAULT, Op, Operand, Site, Unsupported, find_lowering
from onnxref.plan.specialize._program import RefusedError
from onnxref.registry import INTERNAL
from tests.lowered import reference

from .emulator.device import EmulatedDevice
from .lowered import run_on_device

BARE = frozenset[str]()
ALL = frozenset(("cublaslt", "cudnn"))
TOLERANCE = {"float32": 2e-5, "float64": 1e-12, "float16": 2 * 2**-10, "bfloat16": 2 * 2**-7}


def dtype_of(name: str) -> Any:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def normal(shape: tuple[int, ...], name: str = "float32", seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype_of(name))


def check(
    q: Array,
    k: Array,
    v: Array,
    *rest: Array | None,
    opset: int = 24,
    by: str = "",
    libraries: frozenset[str] = BARE,
    presents: bool = False,
    constants: tuple[int, ...] = (),
    precision: str = "default",
    orders: tuple[int, ...] = (0, 1),
    tolerance: float | None = None,
    **attributes: Any,
) -> list[str]:
    """Hold Attention to the reference in float64; return what ran, which starts with `by`."""
    wide = [None if x is None or x.dtype.kind in "bi" else x.astype(np.float64) for x in (q, k, v, *rest)]
    given = [x if w is None else w for x, w in zip((q, k, v, *rest), wide, strict=True)]
    expected = reference("Attention", given, attributes, opset)
    wanted: list[Any] = [(expected[0].shape, q.dtype)]
    if presents:
        wanted += [(x.shape, q.dtype) for x in expected[1:3]]
    device = EmulatedDevice(libraries=libraries)
    found = run_on_device(
        "Attention",
        [q, k, v, *rest],
        wanted,
        attributes,
        opset=opset,
        device=device,
        constants=constants,
        precision=precision,
        orders=orders,
    )
    finite = np.abs(np.append(v.astype(np.float64), 0))
    bound = (tolerance or TOLERANCE[q.dtype.name]) * max(1e-30, float(finite[np.isfinite(finite)].max()))
    assert found[0] is not None
    np.testing.assert_allclose(found[0].astype(np.float64), expected[0], rtol=0, atol=bound)
    for x, y in zip(found[1:], expected[1:3], strict=False):
        assert x is not None
        np.testing.assert_array_equal(x.astype(np.float64), y)
    assert not by or any(line.startswith(by) for line in device.log), device.log
    return device.log


def heads(batch: int, count: int, rows: int, size: int, name: str = "float32", seed: int = 0) -> Array:
    return normal((batch, count, rows, size), name, seed)


MANY, FEW, CORES = "attention.attend", "attention_few.attend_few", "attention_mma.attend_mma"


@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("queries", "keys", "size", "value_size"), [(20, 70, 16, 16), (33, 9, 7, 20), (9, 130, 80, 40)]
)
def test_many_queries(name: str, queries: int, keys: int, size: int, value_size: int) -> None:
    k, v = heads(1, 2, keys, size, name, 1), heads(1, 2, keys, value_size, name, 2)
    check(heads(1, 2, queries, size, name), k, v, by=CORES if "16" in name else MANY)


@pytest.mark.parametrize(
    ("size", "value_size", "queries"), [(16, 16, 9), (128, 64, 70), (72, 128, 20), (5, 7, 30)]
)
def test_tensor_cores(size: int, value_size: int, queries: int) -> None:
    q, k = heads(1, 2, queries, size, "float16"), heads(1, 1, 75, size, "float16", 1)
    v = heads(1, 1, 75, value_size, "float16", 2)
    mask = normal((queries, 75), seed=3) > 0
    mask[4] = False
    check(q, k, v, by=CORES, is_causal=1, orders=(0,))
    check(q, k, v, mask, by=CORES, orders=(1,))
    check(q, k, v, None, None, None, np.array([50]), by=CORES, orders=(0,))


def test_large_heads_in_half_precision() -> None:
    q, k, v = (heads(1, 1, 20, 144, "float16", i) for i in range(3))
    check(q, k, v, by=MANY, orders=(0,))


@pytest.mark.parametrize("size", [32, 64, 96, 256, 300])
def test_sizes_of_heads(size: int) -> None:
    check(heads(1, 1, 40, size), heads(1, 1, 66, size, seed=1), heads(1, 1, 66, size, seed=2), by=MANY)


@pytest.mark.parametrize("size", [64, 16])
def test_large_tiles(size: int) -> None:
    """With many heads tiles have 64 and 128 queries."""
    q, k, v = heads(2, 132, 70, size), heads(2, 132, 3, size, seed=1), heads(2, 132, 3, size, seed=2)
    log = check(q, k, v, by=MANY, orders=(0,))
    assert "ROWS=8" in log[0]
    log = check(q[:, :, :60], k, v, by=MANY, orders=(0,))
    assert "ROWS=4" in log[0]


@pytest.mark.parametrize("queries", [3, 30])
@pytest.mark.parametrize("causal", [0, 1])
def test_grouped_heads_in_three_dimensions(queries: int, causal: int) -> None:
    q, k, v = normal((2, queries, 6 * 8)), normal((2, 40, 2 * 8), seed=1), normal((2, 40, 2 * 12), seed=2)
    check(q, k, v, q_num_heads=6, kv_num_heads=2, is_causal=causal)


@pytest.mark.parametrize("queries", [2, 20])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("three", [False, True])
def test_cache(queries: int, causal: int, three: bool) -> None:
    shape = (2, queries, 3 * 8) if three else (2, 3, queries, 8)
    q, k, v = (normal(shape, seed=i) for i in range(3))
    past_key, past_value = heads(2, 3, 70, 8, seed=4), heads(2, 3, 70, 8, seed=5)
    numbers: dict[str, Any] = {"q_num_heads": 3, "kv_num_heads": 3} if three else {}
    for presents in (True, False):
        check(q, k, v, None, past_key, past_value, is_causal=causal, presents=presents, **numbers)


def test_present_without_cache() -> None:
    q, k, v = (normal((1, 5, 2 * 4), seed=i) for i in range(3))
    check(q, k, v, presents=True, q_num_heads=2, kv_num_heads=2)


@pytest.mark.parametrize("queries", [1, 3, 8, 40])
@pytest.mark.parametrize("causal", [0, 1])
def test_lengths_on_the_device(queries: int, causal: int) -> None:
    """Some queries stand before the first key and see none."""
    q, k, v = heads(3, 4, queries, 16), heads(3, 2, 300, 16, seed=1), heads(3, 2, 300, 16, seed=2)
    lengths = np.array([300, 2, 77], np.int64)
    check(q, k, v, None, None, None, lengths, is_causal=causal)
    k[1, :, 2:] = v[2, :, 77:] = np.inf  # nobody reads what is not there
    if not causal:
        (found,) = run_on_device(
            "Attention",
            [q, k, v, None, None, None, lengths],
            [(q.shape, q.dtype)],
            device=EmulatedDevice(libraries=BARE),
            orders=(0,),
        )
        assert found is not None
        assert np.isfinite(found).all()


def test_wrong_lengths_are_reported() -> None:
    q, k, v = heads(1, 1, 1, 8), heads(1, 1, 4, 8), heads(1, 1, 4, 8)
    for length in (-1, 5):
        with pytest.raises(RefusedError):
            run_on_device(
                "Attention",
                [q, k, v, None, None, None, np.array([length])],
                [(q.shape, q.dtype)],
                device=EmulatedDevice(libraries=BARE),
            )


@pytest.mark.parametrize("queries", [4, 20])
@pytest.mark.parametrize("shape", [(2, 3, 0, 50), (2, 1, 0, 50), (0, 50), (50,), (1, 1), (3, 1, 1)])
@pytest.mark.parametrize("kind", ["bool", "float32"])
def test_masks(queries: int, shape: tuple[int, ...], kind: str) -> None:
    shape = tuple(n or queries for n in shape)
    mask = normal(shape, seed=5)
    given: Array = mask > -0.3 if kind == "bool" else np.where(mask < -0.3, -np.inf, mask).astype(np.float32)
    given[..., :1] = True if kind == "bool" else 0.5
    if len(shape) > 1 and shape[-2] > 1 and kind == "bool":
        given[..., 1, :] = False  # sees nothing: zeros
    elif len(shape) > 1 and shape[-2] > 1:
        given[..., 1, :] = -np.inf
    q, k, v = heads(2, 3, queries, 8), heads(2, 3, 50, 8, seed=1), heads(2, 3, 50, 8, seed=2)
    check(q, k, v, given, opset=23)
    check(q, k, v, given, opset=23, is_causal=1, orders=(0,))


@pytest.mark.parametrize("queries", [4, 20])
def test_short_masks_hide_what_they_do_not_reach(queries: int) -> None:
    q, k, v = heads(1, 2, queries, 8), heads(1, 2, 50, 8, seed=1), heads(1, 2, 50, 8, seed=2)
    for width in (1, 30):
        check(q, k, v, normal((queries, width), seed=3))
        check(q, k, v, normal((width,), seed=3) > -5)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("queries", [1, 6, 20])
def test_types_with_masks_and_softcap(queries: int, name: str) -> None:
    q, k, v = heads(1, 4, queries, 16, name), heads(1, 2, 60, 16, name, 1), heads(1, 2, 60, 16, name, 2)
    check(q, k, v, normal((queries, 60), name, 3), softcap=2.0, scale=0.5)


@pytest.mark.parametrize("queries", [5, 25])
@pytest.mark.parametrize(("left", "right"), [(3, 2), (0, 0), (10, -1), (-1, 4), (2**62, 2**62)])
def test_windows(queries: int, left: int, right: int) -> None:
    q, k, v = heads(1, 1, queries, 8), heads(1, 1, 40, 8, seed=1), heads(1, 1, 40, 8, seed=2)
    window: dict[str, Any] = {"left_window_size": left, "right_window_size": right}
    check(q, k, v, opset=25, **window)
    check(q, k, v, None, None, None, np.array([17]), opset=25, is_causal=1, **window)


@pytest.mark.parametrize("size", [4, 7, 40, 128, 200, 256])
@pytest.mark.parametrize("name", ["float32", "float16"])
def test_few_queries_of_sizes(size: int, name: str) -> None:
    check(
        heads(1, 3, 2, size, name),
        heads(1, 1, 133, size, name, 1),
        heads(1, 1, 133, size // 2 + 1, name, 2),
        by=FEW,
    )


@pytest.mark.parametrize(("queries", "kv_heads", "name"), [(1, 2, "float32"), (3, 1, "float16")])
def test_parts_of_a_long_cache(queries: int, kv_heads: int, name: str) -> None:
    """Many blocks share the keys; whichever comes last joins what they have."""
    q, k = heads(1, 2, queries, 64, name), heads(1, kv_heads, 3001, 64, name, 1)
    log = check(q, k, heads(1, kv_heads, 3001, 64, name, 2), by=FEW, orders=(0, 1, 2))
    assert len(log) == 3


def test_parts_that_nobody_sees() -> None:
    """A length on the device leaves blocks without keys; a NaN behind it shows nowhere."""
    q, k, v = heads(2, 2, 1, 64), heads(2, 2, 900, 64, seed=1), heads(2, 2, 900, 64, seed=2)
    v[:, :, 700:] = np.nan
    lengths = np.array([0, 130])
    check(q, k, np.nan_to_num(v), None, None, None, lengths, by=FEW)
    found = run_on_device(
        "Attention", [q, k, v, None, None, None, lengths], [(q.shape, q.dtype)], opset=24, orders=(0, 1)
    )
    assert found[0] is not None
    assert np.isfinite(found[0]).all()


def test_nothing_to_attend_with() -> None:
    """No queries, no sequences, an empty cache."""
    for batch, queries in ((0, 3), (2, 0), (0, 30)):
        q, k = heads(batch, 2, queries, 8), heads(batch, 2, 9, 8)
        log = check(q, k, k, presents=True)
        assert not any("attend" in line for line in log)
    q = heads(1, 2, 3, 8)
    check(q, q, q, None, heads(1, 2, 0, 8), heads(1, 2, 0, 8), presents=True)


def test_only_unknown_lengths_make_a_run_wait() -> None:
    q, k = heads(2, 1, 2, 8), heads(2, 1, 9, 8)
    for constants, count in (((), 1), ((6,), 0)):
        operands = [Operand(x.shape, x.dtype) for x in (q, k, k)]
        lengths = np.array([4, 9], np.int64)
        last = Operand(lengths.shape, lengths.dtype, constant=lengths if constants else None)
        op = Op("Attention", [*operands, None, None, None, last], [Operand(q.shape, q.dtype)], opset=24)
        site = Site(op)
        lowering = find_lowering("cupy", "", "Attention", 24)
        assert lowering is not None
        lowering.emit(site, *op.inputs)
        faults = [x for launch in site.launches for x in getattr(launch, "arguments", ()) if x is FAULT]
        assert len(faults) == count


def test_special_values() -> None:
    inf, nan = np.inf, np.nan
    for queries in (2, 12):
        q, k, v = heads(1, 1, queries, 4), heads(1, 1, 9, 4, seed=1), heads(1, 1, 9, 4, seed=2)
        q[0, 0, 0, 0] = nan
        check(q, k, v)
        q[0, 0, 0, 0], k[0, 0, 3, 1] = 1, inf
        with np.errstate(all="ignore"):
            check(q, k, v)
        bias = np.zeros((queries, 9), np.float32)
        bias[0, 2], bias[1, 3] = nan, -inf
        k[0, 0, 3, 1] = 2
        check(q, k, v, bias)


@pytest.mark.parametrize("name", ["float32", "float64"])
@pytest.mark.parametrize("three", [False, True])
def test_by_products(name: str, three: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_attention_libraries, "_MANY_SCORES", 1)
    monkeypatch.setattr(_attention_libraries, "_MOST_SCRATCH", 3 * 64 * 70 * 8 * 2)
    shapes = [(2, 64, 6 * 32), (2, 70, 2 * 32)] if three else [(2, 6, 64, 32), (2, 2, 70, 32)]
    q, k, v = normal(shapes[0], name), normal(shapes[1], name, 1), normal(shapes[1], name, 2)
    numbers: dict[str, Any] = {"q_num_heads": 6, "kv_num_heads": 2} if three else {}
    mask = normal((6, 64, 70), seed=4) > 0
    mask[2, 5] = False
    log = check(q, k, v, mask, libraries=ALL, by="cublasLt", softcap=3.0, orders=(0,), **numbers)
    # Scores of half a batch at a time in the larger type; heads side by side, a call for each batch.
    assert sum(line.startswith("cublasLt") for line in log) == (4 if three or name == "float64" else 2)
    check(q, k, v, libraries=ALL, by=MANY, precision="strict", orders=(0,), **numbers)


@pytest.mark.parametrize(("batch", "calls", "copies"), [(1, 2, 0), (2, 4, 0), (3, 6, 0), (4, 2, 4)])
def test_products_of_heads_side_by_side(
    batch: int, calls: int, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read where they lie as long as that takes fewer launches than copies do."""
    monkeypatch.setattr(_attention_libraries, "_MANY_SCORES", 1)
    q, k, v = (normal((batch, rows, 3 * 32), seed=rows) for rows in (64, 70, 70))
    log = check(q, k, v, libraries=ALL, by="", orders=(0,), q_num_heads=3, kv_num_heads=3)
    assert sum(line.startswith("cublasLt") for line in log) == calls
    assert sum(line.startswith("attention_copy") for line in log) == copies
    assert len(log) == calls + copies + 1


@pytest.mark.parametrize("heads_of", [(1, 1), (4, 1), (4, 2)])
def test_products_of_few_heads(heads_of: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_attention_libraries, "_MANY_SCORES", 1)
    monkeypatch.setattr(_attention_libraries, "MOST_SIZE", 1)  # few queries go there too
    count, shared = heads_of
    for batch, queries in ((1, 64), (3, 64), (2, 9)):
        q = normal((batch, queries, count * 36))
        k, v = normal((batch, 70, shared * 36), seed=1), normal((batch, 70, shared * 40), seed=2)
        numbers = {"q_num_heads": count, "kv_num_heads": shared}
        check(q, k, v, libraries=ALL, by="cublasLt", orders=(0,), **numbers)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("three", [False, True])
def test_by_cudnn(name: str, three: bool) -> None:
    shapes = [(2, 16, 4 * 8), (2, 16, 2 * 8)] if three else [(2, 4, 16, 8), (2, 2, 16, 8)]
    q, k, v = normal(shapes[0], name), normal(shapes[1], name, 1), normal(shapes[1], name, 2)
    numbers: dict[str, Any] = {"q_num_heads": 4, "kv_num_heads": 2} if three else {}
    for causal in (0, 1):
        log = check(q, k, v, libraries=ALL, by="cudnn", orders=(0,), is_causal=causal, **numbers)
        assert len(log) == 1  # heads are read and written where they lie
    mask = normal((1, 1, 16, 16), name, 5)
    check(q, k, v, mask, libraries=ALL, by="cudnn", orders=(0,), constants=(3,), **numbers)
    check(q, k, v, mask, libraries=ALL, by="attention", orders=(0,), **numbers)


def test_results_do_not_depend_on_the_batch() -> None:
    for queries in (3, 30):
        q, k, v = heads(8, 2, queries, 16), heads(8, 2, 600, 16, seed=1), heads(8, 2, 600, 16, seed=2)
        runs = [
            run_on_device("Attention", list(x), [(x[0].shape, q.dtype)], precision="strict", orders=(0,))[0]
            for x in ((q, k, v), (q[5:6], k[5:6], v[5:6]))
        ]
        assert runs[0] is not None
        assert runs[1] is not None
        assert runs[0][5:6].tobytes() == runs[1].tobytes()


@pytest.mark.parametrize(("gap", "copies"), [(0, 0), (8, 0), (4, 4)])
def test_by_cudnn_within_one_tensor(gap: int, copies: int) -> None:
    """Thirds of (B, L, 3 * H * D + gap) are read in place if their rows are aligned; so is Y written."""
    batch, queries, count, size = 2, 16, 3, 8
    width, out = 3 * count * size + gap, count * size + gap
    packed = normal((batch, queries, width), "float16")
    views = {
        f"{name}_view": (gap + i * count * size, queries * width, size, width) for i, name in enumerate("qkv")
    }
    y_view = (0, queries * out, size, out)
    device = EmulatedDevice(libraries=ALL)
    (found,) = run_on_device(
        "FusedAttention",
        [packed] * 3,
        [((batch, queries, out), packed.dtype)],
        {**views, "y_view": y_view, "sizes": (batch, count, count, queries, queries, size, size)},
        domain=INTERNAL,
        opset=1,
        device=device,
        orders=(0,),
    )
    assert found is not None
    thirds = packed[:, :, gap:].astype(np.float64).reshape(batch, queries, 3, count, size)
    q, k, v = thirds.transpose(2, 0, 3, 1, 4)
    weights = np.exp(q @ k.swapaxes(2, 3))
    expected = (weights / weights.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3)
    shown = found[:, :, : count * size].astype(np.float64).reshape(expected.shape)
    np.testing.assert_allclose(shown, expected, rtol=0, atol=TOLERANCE["float16"] * np.abs(v).max())
    assert sum(line.startswith("attention_copy") for line in device.log) == copies
    assert len(device.log) == copies + 1


def fused(queries: int, mask: Array | None = None, **attributes: Any) -> tuple[Array, Array]:
    """Return what FusedAttention gives for heads within one packed tensor, and what it should."""
    batch, count, size = 2, 3, 8
    packed = normal((batch, queries, 3, count, size))
    width = 3 * count * size
    views = {f"{name}_view": (i * count * size, queries * width, size, width) for i, name in enumerate("qkv")}
    y_view = (0, queries * count * size, size, count * size)
    sizes = (batch, count, count, queries, queries, size, size)
    given = [packed, packed, packed, *([] if mask is None else [mask])]
    (found,) = run_on_device(
        "FusedAttention",
        given,
        [((batch, queries, count * size), np.float32)],
        {**views, "y_view": y_view, "sizes": sizes, "scale": 0.7, **attributes},
        domain=INTERNAL,
        opset=1,
        device=EmulatedDevice(libraries=BARE),
    )
    q, k, v = packed.astype(np.float64).transpose(2, 0, 3, 1, 4)
    scores = 0.7 * q @ k.swapaxes(2, 3)
    if softcap := attributes.get("softcap"):
        scores = softcap * np.tanh(scores / softcap)
    if attributes.get("is_causal"):
        scores = np.where(np.tri(queries, dtype=bool), scores, -np.inf)
    if mask is not None and mask.dtype == np.bool_:
        scores = np.where(mask == bool(attributes["hides"]), attributes["fill"], scores)
    elif mask is not None:
        scores = scores + mask
    with np.errstate(all="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
    if attributes.get("blind") == 2:
        weights = np.where(np.isnan(weights), 0, weights)
    assert found is not None
    return found, (weights @ v).transpose(0, 2, 1, 3).reshape(found.shape)


@pytest.mark.parametrize("queries", [6, 21])
@pytest.mark.parametrize(("fill", "hides"), [(-1e9, 0), (-math.inf, 1), (-3.4028235e38, 0)])
@pytest.mark.parametrize("blind", [1, 2])
def test_fused(queries: int, fill: float, hides: int, blind: int) -> None:
    mask = normal((queries, queries), seed=3) > 0.5
    mask[2] = bool(hides)
    strides = (0, 0, queries, 1)
    for attributes in (
        {"mask": mask, "mask_strides": strides, "fill": fill, "hides": hides, "blind": blind},
        {"mask": np.where(mask, np.float32(-np.inf), np.float32(1)), "mask_strides": strides, "blind": blind},
        {"is_causal": 1},
        {"softcap": 2.0},
        {},
    ):
        found, expected = fused(queries, **attributes)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_refusals() -> None:
    q = heads(1, 1, 3, 4)
    for attributes, text in (
        ({"softmax_precision": 10}, "softmax_precision"),
        ({"q_num_heads": 2}, "contradict"),
        ({"left_window_size": -2}, "window"),
    ):
        with pytest.raises(Unsupported, match=text):
            run_on_device("Attention", [q, q, q], [(q.shape, q.dtype)], attributes, opset=25)
    with pytest.raises(Unsupported, match="qk_matmul_output"):
        run_on_device("Attention", [q, q, q], [(q.shape, q.dtype), None, None, ((1, 1, 3, 3), q.dtype)])
    with pytest.raises(Unsupported, match="type"):
        run_on_device("Attention", [q, q, q.astype(np.float16)], [(q.shape, q.dtype)])
    large, bare = heads(1, 1, 20, 520), EmulatedDevice(libraries=BARE)
    with pytest.raises(Unsupported, match="elements"):
        run_on_device("Attention", [large] * 3, [(large.shape, q.dtype)], device=bare)
