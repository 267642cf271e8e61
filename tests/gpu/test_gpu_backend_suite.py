"""The official backend tests on the emulated device: what passes on the reference passes there.

`make test` runs one case of each operator and version (`suite.one_for_each_operator`); `make test-emulated`
(ONNXREF_EMULATE=all) runs all of them but the networks of real size, on which the emulator would spend hours.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from . import suite

pytestmark = pytest.mark.usefixtures("device")


def _groups() -> dict[str, Any]:
    whole = os.environ.get("ONNXREF_EMULATE") == "all"
    chosen = suite.one_for_each_operator(suite.node_cases())
    groups = {}
    for category, group in suite.suite(__name__).test_cases.items():
        if "Real" in category:
            continue
        for name in [name for name in dir(group) if name.startswith("test_")]:
            if not name.endswith("_cuda") or not (whole or name in chosen):
                delattr(group, name)
        groups[category] = group
    return groups


globals().update(_groups())


@pytest.mark.skipif(os.environ.get("ONNXREF_EMULATE") != "all", reason="make test-emulated runs it")
def test_constants_for_inputs() -> None:
    """What is lowered only where a value is known while planning."""
    for name, case in suite.constant_cases():
        try:
            case()
        except Exception as error:
            raise AssertionError(name) from error


def test_the_share_has_every_operator() -> None:
    cases = suite.node_cases()
    chosen = suite.one_for_each_operator(cases)
    met = {key for case in cases if f"{case.name}_cuda" in chosen for key in suite.operators(case.model)}
    assert met == {key for case in cases for key in suite.operators(case.model)}
