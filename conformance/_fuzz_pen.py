"""What a rule for an operator draws with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx.defs import OpSchema

from ._fuzz_values import DTYPES, Array, Draw, Shape, arrays


@dataclass(frozen=True, slots=True)
class Pen:
    """What a rule draws with: the schema's types are bound, the same variable to the same type."""

    draw: Draw
    schema: OpSchema
    types: dict[str, str]

    def dtype(self, index: int) -> np.dtype[Any]:
        formal = self.schema.inputs[min(index, len(self.schema.inputs) - 1)]
        return DTYPES[self.types.get(formal.type_str, formal.type_str)]

    def array(self, index: int, shape: Shape, *, tame: bool | None = None) -> Array:
        made: Array = self.draw(arrays(self.dtype(index), shape, tame=tame))
        return made

    def maybe(self, index: int, shape: Shape, *, tame: bool | None = None) -> Array | None:
        return self.array(index, shape, tame=tame) if self.draw(st.booleans()) else None

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def booleans(self, shape: Shape) -> Array:
        count = math.prod(shape)
        drawn = self.draw(st.lists(st.booleans(), min_size=count, max_size=count))
        return np.array(drawn, np.bool_).reshape(shape)


# From the pen to the inputs and the attributes; the attribute `outputs` is the number of outputs.
Rule = Callable[[Pen], tuple[list[Array | None], dict[str, Any]]]
