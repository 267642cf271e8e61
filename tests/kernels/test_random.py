"""Random operators: distributions under fixed seeds, reproducibility, and Dropout by its formula.

Bounds: a mean of n draws with standard deviation s is within 5 s / sqrt(n) of its expectation but
for about one seed in two million, and the seeds here are fixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers import element_types, run_op
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxref import registry
from onnxref.dtypes import Array, ElementType, to_numpy
from onnxref.errors import KernelError
from onnxref.registry import Context

T = ElementType
NAN, INF = float("nan"), float("inf")
REAL = (T.FLOAT, T.FLOAT16, T.DOUBLE, T.BFLOAT16)
SIGMAS = 5


@pytest.fixture(autouse=True)
def _as_in_a_run() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def rows(op_type: str, kind: str, versions: tuple[int, ...]) -> list[tuple[int, ElementType]]:
    return [(v, e) for v in versions for e in element_types(op_type, v, kind)]


def check_moments(sample: Array, mean: float, deviation: float, kurtosis: float) -> None:
    """Hold mean and variance; the variance of the square is (kurtosis - 1) deviation^4."""
    x = sample.astype(np.float64).ravel()
    rounding = 2.0**-8 if sample.dtype.itemsize == 2 else 0.0
    assert abs(x.mean() - mean) < SIGMAS * deviation / np.sqrt(x.size) + rounding * abs(mean)
    spread = ((x - mean) ** 2).mean() / deviation**2
    assert abs(spread - 1) < SIGMAS * np.sqrt((kurtosis - 1) / x.size) + 4 * rounding


def check_uniform_quantiles(u: Array) -> None:
    """Kolmogorov-Smirnov: the greatest distance is above 2.7 / sqrt(n) once in a million samples."""
    u = np.sort(u.ravel())
    steps = np.arange(u.size + 1) / u.size
    distance = max(np.abs(u - steps[1:]).max(), np.abs(u - steps[:-1]).max())
    assert distance < 2.7 / np.sqrt(u.size)


class TestContinuous:
    SHAPE = (100, 200)

    def draw(self, op_type: str, version: int, dtype: ElementType, **attributes: Any) -> Array:
        if op_type.endswith("Like"):
            x = np.zeros(self.SHAPE, np.int8)
            actual = run_op(op_type, x, opset=version, dtype=dtype, **attributes)
        else:
            actual = run_op(op_type, opset=version, shape=self.SHAPE, dtype=dtype, **attributes)
        assert isinstance(actual, np.ndarray)
        assert (actual.dtype, actual.shape) == (to_numpy(dtype), self.SHAPE)
        return actual

    @pytest.mark.parametrize("op_type", ["RandomNormal", "RandomNormalLike"])
    @pytest.mark.parametrize(("version", "dtype"), rows("RandomNormal", "outputs", (1, 22)))
    def test_normal(self, op_type: str, version: int, dtype: ElementType) -> None:
        standard = self.draw(op_type, version, dtype, seed=1.0)
        check_moments(standard, 0, 1, kurtosis=3)
        # About 68.27 % lie within one standard deviation.
        inside = (np.abs(standard.astype(np.float64)) <= 1).mean()
        assert abs(inside - 0.6827) < SIGMAS * np.sqrt(0.6827 * 0.3173 / standard.size) + 2.0**-8
        check_moments(self.draw(op_type, version, dtype, seed=2.0, mean=-3.0, scale=0.5), -3, 0.5, 3)

    @pytest.mark.parametrize("op_type", ["RandomUniform", "RandomUniformLike"])
    @pytest.mark.parametrize(("version", "dtype"), rows("RandomUniform", "outputs", (1, 22)))
    def test_uniform(self, op_type: str, version: int, dtype: ElementType) -> None:
        unit = self.draw(op_type, version, dtype, seed=1.0).astype(np.float64)
        assert unit.min() >= 0
        assert unit.max() <= 1
        check_moments(self.draw(op_type, version, dtype, seed=3.0), 0.5, 12**-0.5, kurtosis=1.8)
        wide = self.draw(op_type, version, dtype, seed=2.0, low=-4.0, high=8.0)
        check_moments(wide, 2, 12**0.5, kurtosis=1.8)
        assert wide.min() >= -4
        assert wide.max() <= 8
        if to_numpy(dtype).itemsize > 2:
            check_uniform_quantiles(unit)

    def test_widest_range(self) -> None:
        largest = float(np.finfo(np.float32).max)
        actual = run_op("RandomUniform", opset=22, shape=(1000,), low=-largest, high=largest, seed=1.0)
        assert np.all(np.isfinite(actual))
        assert actual.min() < -0.9 * largest
        assert actual.max() > 0.9 * largest

    @pytest.mark.parametrize("op_type", ["RandomNormal", "RandomUniform"])
    def test_seeds(self, op_type: str) -> None:
        def draw(**seed: float) -> list[float]:
            return run_op(op_type, opset=22, shape=(8,), **seed).tolist()

        assert draw(seed=5.0) == draw(seed=5.0)
        assert draw(seed=0.0) == draw(seed=0.0)
        assert draw(seed=5.0) != draw(seed=5.5)
        assert draw() != draw()
        like = run_op(f"{op_type}Like", np.zeros(8, np.float32), opset=22, seed=5.0)
        assert like.tolist() == draw(seed=5.0)

    def test_run_without_seed_uses_the_runs_generator(self) -> None:
        operator = registry.find("", "RandomNormal", 22)

        def draw() -> list[float]:
            ctx = Context(generator=np.random.default_rng(3))
            return operator.kernel(shape=(4,), ctx=ctx).tolist()

        assert draw() == draw()

    def test_one_seed_gives_one_sample_in_every_type(self) -> None:
        exact = run_op("RandomNormal", opset=22, shape=(50,), dtype=T.DOUBLE, seed=7.0)
        for dtype in REAL:
            rounded = run_op("RandomNormal", opset=22, shape=(50,), dtype=dtype, seed=7.0)
            np.testing.assert_allclose(rounded.astype(np.float64), exact, rtol=2.0**-8)

    @pytest.mark.parametrize("op_type", ["RandomNormalLike", "RandomUniformLike"])
    @pytest.mark.parametrize("version", [1, 22])
    def test_type_of_the_input(self, op_type: str, version: int) -> None:
        for element in element_types(op_type, version, "inputs"):
            x = np.zeros((2, 3), to_numpy(element))
            assert run_op(op_type, x, opset=version, dtype=T.DOUBLE).dtype == np.float64
            if element in element_types(op_type, version, "outputs"):
                assert run_op(op_type, x, opset=version).dtype == to_numpy(element)
            else:
                with pytest.raises(KernelError, match=r"dtype must be one of .* \(got \w+\)"):
                    run_op(op_type, x, opset=version)

    @pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,) * 64])
    def test_shapes(self, shape: tuple[int, ...]) -> None:
        for op_type in ("RandomNormal", "RandomUniform"):
            assert run_op(op_type, opset=22, shape=shape).shape == shape

    @pytest.mark.parametrize(
        ("attributes", "message"),
        [
            ({"shape": (2, -1)}, r"shape must have no negative dimension \(got \(2, -1\)\)"),
            ({"shape": (1,) * 65}, r"rank of the output must be at most 64"),
            ({"shape": (0, 2**62, 2**62)}, r"shape of the output must be addressable"),
            ({"shape": (1,), "dtype": T.INT32}, r"dtype must be one of float, .* \(got int32\)"),
            ({"shape": (1,), "dtype": 77}, r"dtype must be an element type \(got 77\)"),
        ],
    )
    def test_bad_arguments(self, attributes: dict[str, Any], message: str) -> None:
        for op_type in ("RandomNormal", "RandomUniform"):
            with pytest.raises(KernelError, match=message):
                run_op(op_type, opset=22, **attributes)

    def test_bad_parameters(self) -> None:
        with pytest.raises(KernelError, match=r"scale must not be negative \(got -1\)"):
            run_op("RandomNormal", opset=1, shape=(1,), scale=-1.0)
        with pytest.raises(KernelError, match=r"low must not be above high \(got 2 and 1\)"):
            run_op("RandomUniform", opset=1, shape=(1,), low=2.0)

    def test_cost_is_known_before_anything_is_drawn(self) -> None:
        for op_type in ("RandomNormal", "RandomUniform"):
            cost = registry.find("", op_type, 22).cost
            assert cost is not None
            assert cost(shape=(2**40, 2**20), dtype=T.FLOAT16).out_bytes == 2**61
            like = registry.find("", f"{op_type}Like", 22).cost
            assert like is not None
            assert like(np.zeros((3, 4), bool), dtype=T.DOUBLE).out_bytes == 96


class TestBernoulli:
    @pytest.mark.parametrize(("version", "source"), rows("Bernoulli", "inputs", (15, 22)))
    def test_frequencies(self, version: int, source: ElementType) -> None:
        n = 20_000
        levels = np.array([0, 0.01, 0.25, 0.5, 0.9, 1]).astype(to_numpy(source))
        p = np.repeat(levels[:, None], n, axis=1)
        actual = run_op("Bernoulli", p, opset=version, seed=1.0)
        assert (actual.dtype, actual.shape) == (p.dtype, p.shape)
        drawn = actual.astype(np.float64)
        assert set(np.unique(drawn)) == {0.0, 1.0}
        wanted = levels.astype(np.float64)
        bound = SIGMAS * np.sqrt(wanted * (1 - wanted) / n)
        assert np.all(np.abs(drawn.mean(axis=1) - wanted) <= bound)

    @pytest.mark.parametrize(("version", "target"), rows("Bernoulli", "outputs", (15, 22)))
    def test_output_types(self, version: int, target: ElementType) -> None:
        p = np.linspace(0, 1, 100, dtype=np.float32)
        actual = run_op("Bernoulli", p, opset=version, dtype=target, seed=4.0)
        assert (actual.dtype, actual.shape) == (to_numpy(target), p.shape)
        # The type changes nothing about what is drawn.
        plain = run_op("Bernoulli", p, opset=version, seed=4.0)
        assert actual.astype(np.float32).tolist() == plain.tolist()

    @pytest.mark.parametrize("version", [15, 22])
    def test_draws_are_independent(self, version: int) -> None:
        x = run_op("Bernoulli", np.full(40_000, 0.5), opset=version, seed=2.0) - 0.5
        for lag in (1, 2, 7):
            products = 4 * x[lag:] * x[:-lag]
            assert abs(products.mean()) < SIGMAS / np.sqrt(products.size)

    @pytest.mark.parametrize("version", [15, 22])
    def test_seeds(self, version: int) -> None:
        p = np.full(64, 0.5)
        first = run_op("Bernoulli", p, opset=version, seed=0.0).tolist()
        assert run_op("Bernoulli", p, opset=version, seed=0.0).tolist() == first
        assert run_op("Bernoulli", p, opset=version, seed=0.5).tolist() != first
        # Two runs agree by chance once in 2^64.
        assert (
            run_op("Bernoulli", p, opset=version).tolist() != run_op("Bernoulli", p, opset=version).tolist()
        )

    def test_certain_outcomes(self) -> None:
        p = np.repeat(np.array([0.0, 1.0]), 5000)
        assert run_op("Bernoulli", p, opset=22, dtype=T.BOOL).tolist() == (p == 1).tolist()

    def test_scalars_and_empty_tensors(self) -> None:
        scalar = run_op("Bernoulli", np.asarray(np.float16(1)), opset=22)
        assert (scalar.dtype, scalar.shape, scalar.tolist()) == (np.float16, (), 1)
        assert run_op("Bernoulli", np.zeros((2, 0)), opset=15).shape == (2, 0)

    @pytest.mark.parametrize("value", [-0.1, 1.5, NAN])
    def test_not_a_probability(self, value: float) -> None:
        with pytest.raises(KernelError, match=r"input must be in \[0, 1\] \(got values from "):
            run_op("Bernoulli", np.array([value, 0.5]), opset=22)

    def test_bad_type(self) -> None:
        with pytest.raises(KernelError, match=r"dtype must be one of .* \(got string\)"):
            run_op("Bernoulli", np.array([0.5]), opset=22, dtype=T.STRING)


class TestMultinomial:
    @pytest.mark.parametrize("dtype", [T.INT32, T.INT64])
    @pytest.mark.parametrize(("version", "source"), rows("Multinomial", "inputs", (7, 22)))
    def test_frequencies(self, version: int, source: ElementType, dtype: ElementType) -> None:
        n = 20_000
        p = np.array([[0.1, 0.2, 0.7, 0], [0.25, 0.25, 0.25, 0.25], [0, 0, 0, 1]])
        # Log-probabilities need not be normalized: a row may be shifted.
        logits = (np.log(p) + np.array([[0], [500], [-500]])).astype(to_numpy(source))
        actual = run_op("Multinomial", logits, opset=version, sample_size=n, dtype=dtype, seed=1.0)
        assert (actual.dtype, actual.shape) == (to_numpy(dtype), (3, n))
        wanted = np.exp(logits.astype(np.float64) - logits.astype(np.float64).max(axis=1, keepdims=True))
        wanted /= wanted.sum(axis=1, keepdims=True)
        for row in range(3):
            found = np.bincount(actual[row], minlength=4) / n
            bound = SIGMAS * np.sqrt(wanted[row] * (1 - wanted[row]) / n)
            assert np.all(np.abs(found - wanted[row]) <= bound)

    @given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**20))
    @settings(max_examples=50, deadline=None)
    def test_every_class_can_be_drawn(self, classes: int, batch: int, seed: int) -> None:
        x = np.full((batch, classes), -INF)
        only = np.random.default_rng(seed).integers(0, classes, batch)
        x[np.arange(batch), only] = 3
        actual = run_op("Multinomial", x, opset=7, sample_size=4, seed=float(seed))
        assert actual.tolist() == [[c] * 4 for c in only.tolist()]

    def test_lowest_draw_passes_impossible_classes(self) -> None:
        class Zeros:
            random = staticmethod(np.zeros)

        ctx = Context(generator=Zeros())  # type: ignore[arg-type]
        x = np.array([[-INF, -INF, 0, 0], [0, 0, 0, -INF]])
        kernel = registry.find("", "Multinomial", 22).kernel
        assert kernel(x, sample_size=2, ctx=ctx).tolist() == [[2, 2], [0, 0]]

    def test_seeds_and_defaults(self) -> None:
        x = np.zeros((1, 1000), np.float32)
        first = run_op("Multinomial", x, opset=22, sample_size=8, seed=3.0)
        assert run_op("Multinomial", x, opset=22, sample_size=8, seed=3.0).tolist() == first.tolist()
        assert run_op("Multinomial", x, opset=22, sample_size=8, seed=4.0).tolist() != first.tolist()
        default = run_op("Multinomial", x, opset=7)
        assert (default.dtype, default.shape) == (np.int32, (1, 1))

    def test_empty(self) -> None:
        assert run_op("Multinomial", np.zeros((0, 3)), opset=7, sample_size=2).shape == (0, 2)
        assert run_op("Multinomial", np.zeros((3, 0)), opset=7, sample_size=0).shape == (3, 0)

    @pytest.mark.parametrize(
        ("x", "attributes", "message"),
        [
            (np.zeros(3), {}, r"input must be of rank 2 \(got 1\)"),
            (np.zeros((2, 0)), {}, r"input must have at least one class \(got 0\)"),
            (np.zeros((2, 3)), {"sample_size": -1}, r"sample_size must not be negative \(got -1\)"),
            (np.full((2, 3), -INF), {}, r"each row of input must have a finite maximum and no NaN"),
            (np.full((2, 3), NAN), {}, r"each row of input must have a finite maximum and no NaN"),
            (np.full((2, 3), INF), {}, r"each row of input must have a finite maximum and no NaN"),
            (np.zeros((2, 3)), {"dtype": T.FLOAT}, r"dtype must be one of int32, int64 \(got float\)"),
        ],
    )
    def test_bad_arguments(self, x: Array, attributes: dict[str, int], message: str) -> None:
        with pytest.raises(KernelError, match=message):
            run_op("Multinomial", x, opset=22, **attributes)

    def test_cost(self) -> None:
        cost = registry.find("", "Multinomial", 22).cost
        assert cost is not None
        assert cost(np.zeros((2, 3)), sample_size=2**50, dtype=T.INT64).out_bytes == 2**54


class TestDropout:
    @pytest.mark.parametrize(("version", "dtype"), rows("Dropout", "inputs", (12, 13, 22)))
    def test_training(self, version: int, dtype: ElementType) -> None:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(100, 100)).astype(to_numpy(dtype))
        for ratio in (np.float32(0.75), None):
            y, mask = run_op("Dropout", x, ratio, np.asarray(True), opset=version, n_outputs=2, seed=1)
            assert (y.dtype, mask.dtype, y.shape, mask.shape) == (x.dtype, np.bool_, x.shape, x.shape)
            fraction = 0.5 if ratio is None else 0.75
            bound = SIGMAS * np.sqrt(fraction * (1 - fraction) / x.size)
            assert abs(1 - mask.mean() - fraction) < bound
            # Both scales, 2 and 4, are exact in float32 and the rounding is the last step.
            expected = (mask * x.astype(np.float32) / np.float32(1 - fraction)).astype(x.dtype)
            if dtype is T.DOUBLE:
                expected = mask * x / (1 - fraction)
            np.testing.assert_array_equal(y.astype(np.float64), expected.astype(np.float64))

    @pytest.mark.parametrize("version", [12, 13, 22])
    @pytest.mark.parametrize(
        ("ratio", "training"),
        [(None, None), (0.5, None), (0.5, False), (0.0, True), (None, False), (1.0, False)],
    )
    def test_inference(self, version: int, ratio: float | None, training: bool | None) -> None:
        x = np.array([1, -0.0, NAN, INF], np.float16)
        inputs = (
            None if ratio is None else np.float16(ratio),
            None if training is None else np.bool_(training),
        )
        y, mask = run_op("Dropout", x, *inputs, opset=version, n_outputs=2)
        assert y.tobytes() == x.tobytes()
        assert (mask.dtype, mask.tolist()) == (np.bool_, [True] * 4)

    @pytest.mark.parametrize("dtype", element_types("Dropout", 22, "inputs"), ids=lambda e: e.name)
    def test_types_of_the_ratio(self, dtype: ElementType) -> None:
        ratio = np.array([0.5]).astype(to_numpy(dtype))
        x = np.ones(1000, np.float32)
        y = run_op("Dropout", x, ratio, np.array([True]), opset=22, seed=2)
        assert set(y.tolist()) == {0.0, 2.0}

    def test_seeds(self) -> None:
        x, train = np.ones(64, np.float32), np.asarray(True)

        def draw(**seed: int) -> list[float]:
            return run_op("Dropout", x, None, train, opset=13, **seed).tolist()

        assert draw(seed=7) == draw(seed=7)
        assert draw(seed=-1) == draw(seed=-1)
        assert draw(seed=2**62) == draw(seed=2**62)
        assert draw(seed=7) != draw(seed=8)
        assert draw() != draw()

    @pytest.mark.parametrize(("version", "mask_type"), [(7, None), (10, np.bool_)])
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_inference_only_versions(self, version: int, mask_type: Any, dtype: Any) -> None:
        x = np.arange(6, dtype=dtype)
        y, mask = run_op("Dropout", x, opset=version, n_outputs=2, ratio=0.9)
        assert y.tolist() == x.tolist()
        assert mask.dtype == (dtype if mask_type is None else mask_type)
        assert mask.tolist() == [1] * 6

    @pytest.mark.parametrize(("version", "extra"), [(1, {"consumed_inputs": (0,)}), (1, {}), (6, {})])
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_versions_with_is_test(self, version: int, extra: dict[str, Any], dtype: Any) -> None:
        x = np.full(10_000, 3, dtype)
        y, mask = run_op("Dropout", x, opset=version, n_outputs=2, is_test=1, **extra)
        assert y.tolist() == x.tolist()
        assert mask is None
        y, mask = run_op("Dropout", x, opset=version, n_outputs=2, ratio=0.25, **extra)
        assert y.dtype == mask.dtype == dtype
        assert set(mask.tolist()) == {0.0, 1.0}
        np.testing.assert_array_equal(y, mask * dtype(4))
        assert abs(mask.astype(np.float64).mean() - 0.75) < SIGMAS * np.sqrt(0.1875 / x.size)
        assert y.tolist() != run_op("Dropout", x, opset=version, ratio=0.25, **extra).tolist()

    def test_masked_values_are_multiplied_by_zero(self) -> None:
        x = np.full(100, INF, np.float32)
        y, mask = run_op("Dropout", x, None, np.asarray(True), opset=13, n_outputs=2, seed=0)
        assert np.all(np.isnan(y[~mask]))
        assert np.all(np.isinf(y[mask]))

    def test_scalars_and_empty_tensors(self) -> None:
        y, mask = run_op("Dropout", np.float32(1), None, np.bool_(True), opset=13, n_outputs=2, seed=0)
        assert (y.shape, mask.shape) == ((), ())
        empty = run_op("Dropout", np.zeros((0, 2), np.float32), None, np.bool_(True), opset=13)
        assert empty.shape == (0, 2)
        assert run_op("Dropout", np.asarray(np.float32(1)), opset=6).shape == ()

    @pytest.mark.parametrize("ratio", [1.0, -0.5, NAN])
    def test_bad_ratio(self, ratio: float) -> None:
        x = np.ones(3, np.float32)
        with pytest.raises(KernelError, match=r"ratio must be in \[0, 1\) \(got "):
            run_op("Dropout", x, np.float32(ratio), np.bool_(True), opset=13)
        with pytest.raises(KernelError, match=r"ratio must be in \[0, 1\) \(got "):
            run_op("Dropout", x, opset=6, ratio=ratio)

    def test_inputs_must_be_scalars(self) -> None:
        x = np.ones(3, np.float32)
        with pytest.raises(KernelError, match=r"ratio must have one element \(got shape \(2,\)\)"):
            run_op("Dropout", x, np.ones(2, np.float32), opset=13)
        with pytest.raises(KernelError, match=r"training_mode must have one element \(got shape \(2,\)\)"):
            run_op("Dropout", x, None, np.ones(2, bool), opset=13)
