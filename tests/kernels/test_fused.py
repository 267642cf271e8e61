"""Internal operators that move channels, held to the operators that they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from onnxref.registry import INTERNAL, Context, find


@pytest.mark.parametrize(("shape", "groups"), [((2, 12, 3, 5), 3), ((1, 6, 4), 2), ((0, 4, 1, 1), 2)])
def test_shuffle_channels(shape: tuple[int, ...], groups: int) -> None:
    x = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    n, c, *spatial = shape
    middle = find("", "Reshape", 14).kernel(x, np.array([n, groups, c // groups, *spatial]), allowzero=1)
    turned = find("", "Transpose", 13).kernel(middle, perm=(0, 2, 1, *range(3, x.ndim + 1)))
    expected = find("", "Reshape", 14).kernel(turned, np.array(shape), allowzero=1)
    found = find(INTERNAL, "ShuffleChannels", 1).kernel(x, groups=groups)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("group", [1, 3])
def test_fused_conv_takes_channels_in_order(group: int) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 6, 5, 4), np.float32)
    w = random.standard_normal((3, 6 // group, 3, 3), np.float32)
    order = (4, 1, 0, 5, 2, 3)
    ctx = Context(wanted=(True,), opset=11)
    gathered = find("", "Gather", 13).kernel(x, np.array(order), axis=1)
    expected = find("", "Conv", 11).kernel(gathered, w, group=group, ctx=ctx)
    found = find(INTERNAL, "FusedConv", 1).kernel(x, w, group=group, order=order, ctx=ctx)
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(found, find("", "Conv", 11).kernel(x, w, group=group, ctx=ctx))
