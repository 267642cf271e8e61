"""What several test modules share."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.defs

from onnxref import registry
from onnxref.dtypes import ElementType, to_numpy
from onnxref.registry import Context


def run_op(
    op_type: str, *inputs: Any, opset: int, domain: str = "", n_outputs: int = 1, **attributes: Any
) -> Any:
    """Call the reference kernel of one operator version, with no graph around it.

    Returns the one output, or the tuple of outputs where `n_outputs` is not 1.
    """
    operator = registry.find(domain, op_type, opset)
    if operator.cost is not None:
        operator.cost(*inputs, **attributes)
    kwargs = {"prepared": operator.prepare(**attributes)} if operator.prepare else dict(attributes)
    if operator.takes_context:
        kwargs["ctx"] = Context(wanted=(True,) * n_outputs, opset=opset)
    with np.errstate(all="ignore"):
        result = operator.kernel(*inputs, **kwargs)
    outputs = result if isinstance(result, tuple) else (result,)
    outputs = tuple(np.asarray(y) if isinstance(y, np.generic) else y for y in outputs)
    return outputs[0] if n_outputs == 1 else outputs[:n_outputs]


def versions(op_type: str) -> list[int]:
    """Return every schema version of an operator."""
    schemas = onnx.defs.get_all_schemas_with_history()
    return sorted(s.since_version for s in schemas if s.name == op_type and s.domain == "")


def element_types(op_type: str, version: int, kind: str = "inputs", index: int = 0) -> list[ElementType]:
    """Return the element types of tensors that a schema allows for one of its inputs or outputs."""
    parameter = getattr(onnx.defs.get_schema(op_type, version, ""), kind)[index]
    return sorted(ElementType[t[7:-1].upper()] for t in parameter.types if t.startswith("tensor("))


def dtypes(op_type: str, version: int, kind: str = "inputs", index: int = 0) -> list[np.dtype[Any]]:
    """Return the dtypes that a schema allows for one of its inputs or outputs."""
    return [to_numpy(element) for element in element_types(op_type, version, kind, index)]
