"""What a spec of `_type_cases.py` is: how to call an operator with inputs of given types.

A spec lists the inputs in schema order. A tuple of ints is a shape, `D` holds the data itself, None
leaves an optional input out. Each input takes the type that its schema's type variable is bound to.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

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
        inputs: as the module's docstring says; None means every required input with shape (2, 3). A callable
            is asked with the types bound.
        attributes: a callable is asked for its value with the types bound.
        n_outputs: how many outputs the node lists.
        link: completes the types, given the variable under test: variables that follow from others.
        captured: values that are inputs of the graph, but not of the node, and their types.
        nodes: what else the graph holds, before the node.
    """

    inputs: tuple[Item, ...] | Callable[[Types], tuple[Item, ...]] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    n_outputs: int = 1
    link: Callable[[dict[str, str], str], None] = lambda types, tested: None
    captured: Callable[[Types], dict[str, str]] = lambda types: {}
    nodes: tuple[onnx.NodeProto, ...] = ()


def spec(*inputs: Item, n_outputs: int = 1, **attributes: Any) -> Spec:
    """Return a spec of inputs and attributes."""
    return Spec(inputs, attributes, n_outputs)


# --- models -------------------------------------------------------------------------------------

_WRAPPED = re.compile(r"(tensor|sparse_tensor|seq|optional|map)\((.*)\)")


def element(name: str) -> int:
    """Return the number of an element type: `element("float")` is 1."""
    return int(onnx.TensorProto.DataType.Value(name.upper()))


def type_proto(type_string: str) -> onnx.TypeProto:
    """Return the type that an ONNX type string such as `seq(tensor(float))` names, without a shape."""
    match = _WRAPPED.fullmatch(type_string)
    if match is None:
        raise ValueError(f"no type {type_string!r}")
    kind, content = match.groups()
    proto = onnx.TypeProto()
    match kind:
        case "tensor":
            proto.tensor_type.elem_type = element(content)
        case "sparse_tensor":
            proto.sparse_tensor_type.elem_type = element(content)
        case "seq":
            proto.sequence_type.elem_type.CopyFrom(type_proto(content))
        case "optional":
            proto.optional_type.elem_type.CopyFrom(type_proto(content))
        case "map":
            key, _, value = content.partition(",")
            proto.map_type.key_type = element(key)
            value = value.strip()
            value = value if "(" in value else f"tensor({value})"
            proto.map_type.value_type.CopyFrom(type_proto(value))
    return proto


def node_model(
    node: onnx.NodeProto,
    opsets: Mapping[str, int],
    types: Mapping[str, str],
    functions: Iterable[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """Return the model that is this node, its inputs declared by type string."""
    graph = onnx.GraphProto(name="one node", node=[node])
    for name, type_string in types.items():
        graph.input.add(name=name, type=type_proto(type_string))
    for name in node.output:
        if name:
            graph.output.add(name=name)
    model = onnx.ModelProto(ir_version=onnx.IR_VERSION, graph=graph, functions=functions)
    for domain, version in opsets.items():
        model.opset_import.add(domain=domain, version=version)
    return model


# --- types ---------------------------------------------------------------------------------------


def inner(type_string: str) -> str:
    """Return what a sequence or an optional holds."""
    return type_string.partition("(")[2][:-1]


def dtype_of(type_string: str) -> np.dtype[Any]:
    """Return the NumPy type of a tensor type."""
    return to_numpy(number_of(type_string))


def to_numpy(number: int) -> np.dtype[Any]:
    """Return the NumPy type of an element type's number; strings are objects."""
    string = number == onnx.TensorProto.STRING
    return np.dtype(object) if string else helper.tensor_dtype_to_np_dtype(number)


def number_of(type_string: str) -> int:
    """Return the number of a tensor's element type, as attributes such as `to` have it."""
    return element(inner(type_string))


def number(variable: str) -> Callable[[Types], int]:
    """Return an attribute that names the element type a variable is bound to."""
    return lambda types: number_of(types[variable])


# int2 ends at 1: its 3 is a -1.
_NUMBERS = np.array([1, 0, -2, 3, -1])

# --- values --------------------------------------------------------------------------------------


def as_array(data: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return data in a type; strings are the numbers as text."""
    if dtype.kind == "O":
        whole = np.asarray(data)
        texts = [str(x) for x in whole.reshape(-1).tolist()]
        return np.array(texts, object).reshape(whole.shape)
    with np.errstate(over="ignore"):  # beyond the largest number lies infinity
        return np.asarray(data).astype(dtype)


def value_of(type_string: str, item: Item | None = None) -> Any:
    """Return a small value of any type, with the numbers of `_NUMBERS` where the item is a shape."""
    kind = type_string.partition("(")[0]
    match kind:
        case "tensor":
            if isinstance(item, D):
                return as_array(item.data, dtype_of(type_string))
            shape = item.shape if isinstance(item, Of) else (2, 3) if item is None else item
            return as_array(_numbers(math.prod(shape), type_string).reshape(shape), dtype_of(type_string))
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


def _numbers(count: int, type_string: str) -> NDArray[Any]:
    """Return numbers that every type holds, or the nearest it has: negative ones where there are any."""
    numbers = np.resize(_NUMBERS, count)
    unsigned = inner(type_string).startswith(("uint", "bool", "float8e8m0"))
    return np.abs(numbers) if unsigned else numbers


def tensor_of(type_string: str, data: Any) -> onnx.TensorProto:
    """Return an attribute's tensor of a tensor type."""
    array = as_array(data, dtype_of(type_string))
    if array.dtype.kind == "O":
        return helper.make_tensor("", onnx.TensorProto.STRING, array.shape, array.reshape(-1).tolist())
    return onnx.numpy_helper.from_array(array)


def one_tensor(type_string: str, shape: Sequence[int] = (1,)) -> onnx.TensorProto:
    """Return an attribute's tensor of ones, of a tensor type."""
    return tensor_of(type_string, np.ones(shape))


def is_whole(type_string: str) -> bool:
    """Whether a tensor type is an integer type."""
    return re.fullmatch(r"tensor\(u?int\d+\)", type_string) is not None


def whole_or(variable: str, whole: Item, other: Item) -> Callable[[Types], tuple[Item, ...]]:
    """Return the one input of a spec, by whether a variable is bound to an integer type."""
    return lambda types: (whole if is_whole(types[variable]) else other,)


# --- subgraphs -----------------------------------------------------------------------------------


def graph(inputs: Mapping[str, str], outputs: Mapping[str, str], *nodes: onnx.NodeProto) -> onnx.GraphProto:
    """Return a subgraph whose inputs and outputs have these types."""
    made = onnx.GraphProto(name="body", node=nodes)
    for name, type_string in inputs.items():
        made.input.add(name=name, type=type_proto(type_string))
    for name, type_string in outputs.items():
        made.output.add(name=name, type=type_proto(type_string))
    return made
