"""What a spec of `type_cases.py` is: how to call an operator with inputs of given types.

A spec lists the inputs in schema order. A tuple of ints is a shape, `D` holds the data itself, None
leaves an optional input out. Each input takes the type that its schema's type variable is bound to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from node_models import element, type_proto
from numpy.typing import NDArray
from onnx import helper

from onnxref.dtypes import to_numpy

# A type variable, or a type string that stands for itself, to the type string it is bound to.
Types = Mapping[str, str]


@dataclass(frozen=True)
class D:
    """Data of an input, in whatever type it takes."""

    data: Any


@dataclass(frozen=True)
class Of:
    """An input of a heterogeneous variadic parameter that takes the type of another variable."""

    variable: str
    shape: tuple[int, ...]


Item = tuple[int, ...] | D | Of | None


@dataclass(frozen=True)
class Spec:
    """How to call an operator.

    Attributes:
        inputs: as the module's docstring says; None means every required input with shape (2, 3).
        attributes: a callable is asked for its value with the types bound.
        n_outputs: how many outputs the node lists.
        link: completes the types, given the variable under test: variables that follow from others.
        captured: values that are inputs of the graph, but not of the node, and their types.
        nodes: what else the graph holds, before the node.
    """

    inputs: tuple[Item, ...] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    n_outputs: int = 1
    link: Callable[[dict[str, str], str], None] = lambda types, tested: None
    captured: Callable[[Types], dict[str, str]] = lambda types: {}
    nodes: tuple[onnx.NodeProto, ...] = ()


def spec(*inputs: Item, n_outputs: int = 1, **attributes: Any) -> Spec:
    """Return a spec of inputs and attributes."""
    return Spec(inputs, attributes, n_outputs)


# --- types ---------------------------------------------------------------------------------------


def inner(type_string: str) -> str:
    """Return what a sequence or an optional holds."""
    return type_string.partition("(")[2][:-1]


def dtype_of(type_string: str) -> np.dtype[Any]:
    """Return the NumPy type of a tensor type."""
    return to_numpy(number_of(type_string))


def number_of(type_string: str) -> int:
    """Return the number of a tensor's element type, as attributes such as `to` have it."""
    return element(inner(type_string))


def number(variable: str) -> Callable[[Types], int]:
    """Return an attribute that names the element type a variable is bound to."""
    return lambda types: number_of(types[variable])


# --- values --------------------------------------------------------------------------------------


def as_array(data: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return data in a type; strings are the numbers as text."""
    if dtype.kind == "O":
        whole = np.asarray(data)
        texts = [str(x) for x in whole.reshape(-1).tolist()]
        return np.array(texts, object).reshape(whole.shape)
    return np.asarray(data).astype(dtype)


def value_of(type_string: str, item: Item | None = None) -> Any:
    """Return a small value of any type: 1, 0, 1, 0 ... where the item is a shape."""
    kind = type_string.partition("(")[0]
    match kind:
        case "tensor":
            if isinstance(item, D):
                return as_array(item.data, dtype_of(type_string))
            shape = item.shape if isinstance(item, Of) else (2, 3) if item is None else item
            # No type of ONNX lacks a 0 and a 1 but float8e8m0, where 0 becomes the smallest number.
            data = (np.arange(math.prod(shape)) + 1) % 2
            return as_array(data.reshape(shape), dtype_of(type_string))
        case "seq":
            return [value_of(inner(type_string), item) for _ in range(2)]
        case "optional":
            return value_of(inner(type_string), item)
        case "map":
            key, value = (part.strip() for part in inner(type_string).split(","))
            keys: list[Any] = ["a", "b"] if key == "string" else [1, 2]
            return {k: as_array(i, to_numpy(element(value)))[()] for i, k in enumerate(keys)}
        case _:
            raise ValueError(f"no value of {type_string}")


def one_tensor(type_string: str, shape: Sequence[int] = (1,)) -> onnx.TensorProto:
    """Return an attribute's tensor of ones, of a tensor type."""
    array = as_array(np.ones(shape), dtype_of(type_string))
    if array.dtype.kind == "O":
        return helper.make_tensor("", onnx.TensorProto.STRING, shape, array.reshape(-1).tolist())
    return onnx.numpy_helper.from_array(array)


# --- subgraphs -----------------------------------------------------------------------------------


def graph(inputs: Mapping[str, str], outputs: Mapping[str, str], *nodes: onnx.NodeProto) -> onnx.GraphProto:
    """Return a subgraph whose inputs and outputs have these types."""
    made = onnx.GraphProto(name="body", node=nodes)
    for name, type_string in inputs.items():
        made.input.add(name=name, type=type_proto(type_string))
    for name, type_string in outputs.items():
        made.output.add(name=name, type=type_proto(type_string))
    return made
