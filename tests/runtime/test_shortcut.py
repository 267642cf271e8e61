"""The short way: what a small model gives on it is what the long way gives, whatever comes in."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import onnx
import pytest

from onnxref import InferenceSession
from onnxref.dtypes import Array
from onnxref.native import _cache as cache
from onnxref.native import team_of

HEAD = '<ir_version: 10, opset_import: ["" : 21]> '
# The program reads the inputs in another order than the model's, and one of them not at all.
MODEL = """g (float[N, 4] x, float[K] unused, float[4] b) => (float[N, 4] z, float[N, 4] y) {
    c = Neg(b) y = Add(c, x) z = Mul(y, y) }"""
# Results are large enough for several threads.
LARGE = "g (float[N, 512] x, float[512] b) => (float[N, 512] y) { s = Exp(x) t = Tanh(s) y = Add(t, b) }"
PAIR = {"x": np.float32([1, 2])}
RNG = np.random.default_rng(3)


def session(text: str, backend: str = "numba", **options: Any) -> InferenceSession:
    return InferenceSession(onnx.parser.parse_model(HEAD + text), backend=backend, **options)


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def feeds(rows: int = 3) -> dict[str, Array]:
    return {"x": normal(rows, 4), "unused": normal(2), "b": normal(4)}


def assert_same(made: InferenceSession, feed: dict[str, Any], names: list[str] | None = None) -> None:
    wanted = session(MODEL, "numpy").run(names, feed)
    for y, e in zip(made.run(names, feed), wanted, strict=True):
        np.testing.assert_array_equal(y, e, strict=True)


def ready(text: str, feed: dict[str, Array], names: list[str] | None = None) -> InferenceSession:
    """Return a session that has taken note of the short way."""
    made = session(text)
    made.run(names, feed)
    assert made._shortcuts
    return made


@pytest.mark.parametrize("names", [None, ["z", "y"], ["y", "z"], ["y"], ["z"]])
def test_outputs_are_in_the_order_that_was_asked_for(names: list[str] | None) -> None:
    made = ready(MODEL, feeds(), names)
    for _ in range(3):
        assert_same(made, feeds(), names)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda x: x[::-1], id="reversed"),
        pytest.param(lambda x: np.asfortranarray(x), id="columns"),
        pytest.param(lambda x: np.repeat(x, 3, axis=1)[:, ::3], id="strided"),
        pytest.param(lambda x: np.broadcast_to(x[:1], x.shape), id="repeated"),
        pytest.param(lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(x.shape), id="read-only"),
        pytest.param(
            lambda x: np.frombuffer(b"_" + x.tobytes(), np.float32, offset=1).reshape(3, 4), id="odd"
        ),
        pytest.param(lambda x: x.astype(">f4"), id="swapped"),
        pytest.param(lambda x: x.tolist(), id="list"),
        pytest.param(lambda x: np.concatenate([x, x]), id="longer"),
        pytest.param(lambda x: x[:0], id="empty"),
    ],
)
def test_inputs_may_lie_in_memory_as_they_like(change: Any) -> None:
    made, feed = ready(MODEL, feeds()), feeds()
    assert_same(made, {**feed, "x": change(feed["x"])})
    assert_same(made, feed)


def test_a_string_is_one_name() -> None:
    made = ready(
        "g (float[2] x) => (float[2] a, float[2] b) { a = Relu(x) b = Neg(x) ab = Abs(x) }", PAIR, ["a", "b"]
    )
    (found,) = made.run("ab", PAIR)
    np.testing.assert_array_equal(found, PAIR["x"], strict=True)


def test_a_shortcut_is_found_while_other_threads_ask_for_new_outputs() -> None:
    names = [f"a{i}" for i in range(200)]
    made = session(f"g (float[2] x) => (float[2] a0) {{ {' '.join(f'{name} = Relu(x)' for name in names)} }}")
    known, new = names[:150], names[150:]
    for name in known:
        made.run(name, PAIR)
    done = threading.Event()
    failed: list[RuntimeError] = []

    def work() -> None:
        while not done.is_set():
            try:
                made.run(known[-1], [PAIR["x"]])  # a list goes the long way
            except RuntimeError as error:
                failed.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=work) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        for name in new:
            made.run(name, PAIR)
    finally:
        done.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(before)
    assert not failed


def test_outputs_belong_to_the_caller() -> None:
    made = ready(MODEL, feeds())
    first = made.run(None, feeds())
    kept = [y.copy() for y in first]
    assert all(y.flags.writeable and y.flags.owndata for y in first)
    second = made.run(None, feeds())
    assert not any(np.shares_memory(a, b) for a in first for b in second)
    for y, e in zip(first, kept, strict=True):
        np.testing.assert_array_equal(y, e)


@pytest.mark.parametrize(("text", "names"), [(MODEL, ("x", "unused", "b")), (LARGE, ("x", "b"))])
def test_threads_do_not_disturb_each_other(text: str, names: tuple[str, ...]) -> None:
    shapes = {
        "x": (400, 512) if text is LARGE else (3, 4),
        "unused": (2,),
        "b": (512 if text is LARGE else 4,),
    }
    jobs = [{name: normal(*shapes[name]) for name in names} for _ in range(5)]
    made = ready(text, jobs[0])
    wanted = [made.run(None, job) for job in jobs]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(100):
            found = made.run(None, jobs[number])
            if not all(np.array_equal(y, e) for y, e in zip(found, wanted[number], strict=True)):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(("text", "together"), [(MODEL, False), (LARGE, True)])
def test_the_code_that_runs_programs_is_compiled_with_them(
    text: str, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the first native run of all would compile it, and hold up everything meanwhile."""
    feed = feeds() if text is MODEL else {"x": normal(400, 512), "b": normal(512)}
    team = team_of(2)
    made = session(text, intra_op_num_threads=2)
    made.run(None, feed)
    (region,) = made.native_regions()
    assert not region.program.missing()
    for function in team.functions(together=True):
        monkeypatch.setattr(function, "_address", 0)
    monkeypatch.setattr(cache, "contains", lambda key: False)
    assert region.program.missing() == team.functions(together=together)
