"""The index of producers and readers that a pass hands on is that of the ops which it has left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import pytest
from model_zoo import DRAWN_MODELS, REAL_MODELS

import onnxref
from onnxref.plan.passes import Block, all_passes
from onnxref.plan.passes._match import Graph
from onnxref.plan.specialize import _regions

MODELS = {model.name: model for model in (*REAL_MODELS, *DRAWN_MODELS)}
CHOSEN = ("torch gpt_dynamo_opset23", "torch encoder_opset17", "light_shufflenet")


def check(block: Block) -> bool:
    """Compare the index, if there is one, with a new one; return whether there is."""
    found, fresh = block.index, Graph(block)
    if found is None:
        return False
    assert list(found) == block.ops
    operands = {x for op in block.ops for x in (*op.inputs, *op.outputs) if x is not None}
    for x in operands:
        assert found.producer(x) is fresh.producer(x)
        assert Counter(found.readers(x)) == Counter(fresh.readers(x))
    return True


@pytest.mark.parametrize("name", CHOSEN)
def test_every_pass_leaves_a_right_index(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handed_on: list[bool] = []

    def run_and_check(block: Block, without: Collection[str] = ()) -> dict[str, int]:
        counts = {}
        for own, run in all_passes().items():
            counts[own] = run(block)
            handed_on.append(check(block))
        return counts

    monkeypatch.setattr(_regions, "run_passes", run_and_check)
    model = MODELS[name]
    session = onnxref.InferenceSession(model.model(), backend="numba")
    session.run(None, model.calls()[0])
    assert sum(handed_on) > len(handed_on) // 2
