"""Strings beside a card: what reads them stays on the reference, the rest of the model is on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxref
from onnxref.errors import BackendError

from .emulator.device import EmulatedDevice

HEAD = '<ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml" : 3, "com.microsoft" : 1]> '
ENCODED = """g (string[n] x) => (y) {
    a = ai.onnx.ml.LabelEncoder<keys_strings = ["a", "b"], values_floats = [1.0, 2.0]>(x)
    y = Softmax<axis = 0>(a) }"""
COUNTED = """g (string[n, 1] x) => (y) {
    t = com.microsoft.Tokenizer<mark = 0, mincharnum = 1, pad_value = "#", tokenexp = "[a-z]+">(x)
    f = Flatten(t)
    c = TfIdfVectorizer<max_gram_length = 1, max_skip_count = 0, min_gram_length = 1, mode = "TF",
        ngram_counts = [0], ngram_indexes = [0, 1], pool_strings = ["a", "b"]>(f)
    y = Softmax(c) }"""


def session(text: str, **options: Any) -> onnxref.InferenceSession:
    return onnxref.InferenceSession(onnx.parser.parse_model(HEAD + text), **{"backend": "cupy", **options})


@pytest.mark.parametrize(("text", "reader"), [(ENCODED, "LabelEncoder"), (COUNTED, "TfIdfVectorizer")])
def test_strings_stay_on_the_host(device: EmulatedDevice, text: str, reader: str) -> None:
    x = np.array(["a b a", "b", "c", "a"], object)
    feeds = {"x": x if text is ENCODED else x[:, np.newaxis]}
    made = session(text)
    (expected,) = session(text, backend="numpy").run(None, feeds)
    for _ in range(3):
        (y,) = made.run(None, feeds)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    kinds = {row.operator.rpartition(":")[2]: row.kind for row in made.explain()}
    assert kinds[reader] == "reference"
    assert kinds["Softmax"] == "device"
    with pytest.raises(BackendError, match="strict"):
        session(text, strict=True).run(None, feeds)
