"""What the models of ai.onnx.ml share: examples, post_transforms, arrays that follow from attributes.

A model's numbers are attributes, which stand for the node: their values are the same objects for every shape
of it, so that arrays made from them are found again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final

from onnxref.dtypes import Array
from onnxref.lowering import Operand, Packed, Site, Unsupported

NUMBERS: Final = ("float32", "float64", "int32", "int64")
TRANSFORMS: Final = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")  # by their numbers in kernels


def check_transform(kind: str) -> str:
    """Refuse a `post_transform` that there is not."""
    if kind not in TRANSFORMS:
        raise Unsupported(f"post_transform {kind}")
    return kind


def examples(x: Operand) -> tuple[int, int]:
    """Return (N, F) of numbers (N, F) that lie plainly; a single dimension is one example."""
    if x.dtype.name not in NUMBERS or x.ndim not in (1, 2) or not x.shape[-1] or x.layout is not None:
        raise Unsupported(f"X is {x}")
    return (x.shape[0] if x.ndim == 2 else 1), x.shape[-1]


def kept(site: Site, source: object, key: Hashable, build: Callable[[], Array]) -> Packed:
    """Return an array that follows from an attribute's value, which stands for the node."""
    return Packed(site.packs.get([source], key, build))


def of_attributes(
    site: Site, attributes: Mapping[str, Any], name: Hashable, build: Callable[[], Array]
) -> Packed:
    """Return an array that follows from all of these attributes."""
    found = sorted(attributes.items())
    sources = [value for _, value in found if not isinstance(value, (int, float, str))]
    plain = tuple(item for item in found if isinstance(item[1], (int, float, str)))
    return Packed(site.packs.get(sources, (name, tuple(sorted(attributes)), plain), build))
