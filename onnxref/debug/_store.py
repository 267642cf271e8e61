"""Where traced tensors go: memory, an `.npz` file, a safetensors file, or the layout of the official tests.

All files are written one value at a time: nothing is held back until the end.
"""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Literal, Protocol, TypeAlias

import numpy as np

from ..dtypes import Array, ElementType, from_numpy, tensor_type_string, to_numpy
from ..errors import InputError, OutputError
from ..graph import Model, SparseTensor, Value, ValueType, type_string
from ..model import encode_value, save_model
from ._pieces import type_of

StoreFormat: TypeAlias = Literal["npz", "safetensors", "official"]

# Names of element types in safetensors. Types that it lacks are widened to ones it has.
_SAFETENSORS = {
    ElementType.FLOAT: "F32",
    ElementType.DOUBLE: "F64",
    ElementType.FLOAT16: "F16",
    ElementType.BFLOAT16: "BF16",
    ElementType.FLOAT8E4M3FN: "F8_E4M3",
    ElementType.FLOAT8E5M2: "F8_E5M2",
    ElementType.FLOAT8E8M0: "F8_E8M0",
    ElementType.INT8: "I8",
    ElementType.INT16: "I16",
    ElementType.INT32: "I32",
    ElementType.INT64: "I64",
    ElementType.UINT8: "U8",
    ElementType.UINT16: "U16",
    ElementType.UINT32: "U32",
    ElementType.UINT64: "U64",
    ElementType.BOOL: "BOOL",
    ElementType.COMPLEX64: "C64",
}
_WIDENED = {
    ElementType.INT4: np.int8,
    ElementType.INT2: np.int8,
    ElementType.UINT4: np.uint8,
    ElementType.UINT2: np.uint8,
    ElementType.FLOAT4E2M1: np.float32,
    ElementType.FLOAT6E2M3: np.float32,
    ElementType.FLOAT6E3M2: np.float32,
    ElementType.FLOAT8E4M3FNUZ: np.float32,
    ElementType.FLOAT8E5M2FNUZ: np.float32,
}
_CHUNK = 1 << 20  # bytes
_NO_BYTES = np.empty(0, np.uint8)


class Store(Protocol):
    """Takes values one by one; closed at the end, also after a failure."""

    def add(self, path: str, value: Any) -> bool:
        """Write a value under its path; return False where the format has no place for it."""

    def close(self) -> None:
        """Finish what was written."""


class MemoryStore:
    """Keeps copies of the values; the executor may write into the arrays it made later on."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def add(self, path: str, value: Any) -> bool:
        self.values[_free_name(path, self.values)] = _copy(value)
        return True

    def close(self) -> None:
        """Nothing is open."""


class NpzStore:
    """An uncompressed `.npz` file with one array for each value.

    A sequence gives an array `path[i]` for each tensor, a sparse tensor `path.values` and `path.indices`.
    NumPy's format has no names for bfloat16 and the like: they come back as bytes (`|V2`); strings come back
    as NumPy's. Maps and absent values have no place.
    """

    def __init__(self, path: Path) -> None:
        self._names: set[str] = set()
        with _reported(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True)
        self._path = path

    def add(self, path: str, value: Any) -> bool:
        with _reported(self._path):
            written = False
            for name, array in _parts(path, value):
                array = array.astype(str) if array.dtype == np.object_ else array
                with self._file.open(f"{_claim(name, self._names)}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
                written = True
        return written

    def close(self) -> None:
        with _reported(self._path):
            self._file.close()


class SafetensorsStore:
    """A safetensors file; sequences and sparse tensors are taken apart as in an `.npz` file.

    Types that the format lacks are widened, to int8, uint8 or float32, and named in its metadata under the
    path. Strings, complex128, maps and absent values have no place.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._metadata = {"format": "np", "producer": "onnxref"}
        self._header: dict[str, Any] = {"__metadata__": self._metadata}
        self._offset = 0
        # The header stands first but is known last: tensors wait in a file beside it.
        with _reported(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._data: IO[bytes] = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - closed below

    def add(self, path: str, value: Any) -> bool:
        written = False
        with _reported(self._path):
            for name, array in _parts(path, value):
                written |= self._add_array(name, array)
        return written

    def _add_array(self, name: str, array: Array) -> bool:
        element = from_numpy(array.dtype)
        name = _free_name(name, self._header)
        if element in _WIDENED:
            self._metadata[name] = tensor_type_string(array.dtype)
            array = array.astype(_WIDENED[element])
        kind = _SAFETENSORS.get(from_numpy(array.dtype))
        if kind is None:
            return False
        for chunk in _bytes(array):
            self._data.write(chunk)
        end = self._offset + array.nbytes
        self._header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [self._offset, end]}
        self._offset = end
        return True

    def close(self) -> None:
        text = json.dumps(self._header, ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)  # so that the first tensor is aligned
        with _reported(self._path), self._data, self._path.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            self._data.seek(0)
            shutil.copyfileobj(self._data, file, _CHUNK)


def read_safetensors(path: Path | str) -> dict[str, Array]:
    """Return the tensors of a safetensors file by name, mapped from the file; widened types come back.

    Raises:
        InputError: the file cannot be read, or is not a safetensors file.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size < path.stat().st_size else None
        if not isinstance(header, dict):
            raise ValueError("it has no header")
        data = (
            np.memmap(path, np.uint8, "r", offset=8 + size) if path.stat().st_size > 8 + size else _NO_BYTES
        )
        metadata = header.pop("__metadata__", {})
        return {name: _read_tensor(data, entry, metadata.get(name)) for name, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{str(path)!r} is not a safetensors file: {error}") from error


def _read_tensor(data: Array, entry: dict[str, Any], widened: str | None) -> Array:
    begin, end = entry["data_offsets"]
    element = {name: element for element, name in _SAFETENSORS.items()}[entry["dtype"]]
    array = data[begin:end].view(to_numpy(element)).reshape(entry["shape"])
    for narrow in _WIDENED:
        if widened == tensor_type_string(to_numpy(narrow)):
            return array.astype(to_numpy(narrow))
    return array


class OfficialStore:
    """The layout of the official tests: a model whose outputs are the traced values, its inputs and outputs.

    Files have numbers; the path of a value is the name in its message. What lies inside of subgraphs and
    functions cannot be an output: it is written as `inner_0.pb` ... beside `output_0.pb` ...
    """

    def __init__(self, folder: Path, model: Model, feeds: Mapping[str, Any]) -> None:
        self._folder, self._model = folder, model
        self._data = folder / "test_data_set_0"
        self._outputs: list[Value] = []
        self._inner = 0
        self._known = {name for node in model.graph.nodes for name in node.outputs if name}
        # Files have numbers: inputs that keep their default come behind those that have a file.
        self._inputs = sorted(model.graph.inputs, key=lambda value: value.name not in feeds)
        with _reported(folder):
            self._data.mkdir(parents=True, exist_ok=True)
            for kind in ("input", "output", "inner"):
                for old in self._data.glob(f"{kind}_*.pb"):
                    old.unlink()
        for i, value in enumerate(value for value in self._inputs if value.name in feeds):
            self._write(f"input_{i}.pb", value.name, feeds[value.name], value.type)

    def add(self, path: str, value: Any) -> bool:
        if any(path == given.name for given in self._inputs):
            return True  # it has its file
        kind = type_of(value)
        if value is None or type_string(kind) is None:  # nothing, or an empty sequence
            return False
        if path in self._known:
            self._write(f"output_{len(self._outputs)}.pb", path, value, kind)
            self._outputs.append(Value(path, kind))
            self._known.remove(path)  # a second value of that path comes from a body
        else:
            self._write(f"inner_{self._inner}.pb", path, value, kind)
            self._inner += 1
        return True

    def _write(self, file: str, name: str, value: Any, kind: ValueType | None) -> None:
        message = encode_value(value, kind)
        with suppress(AttributeError):  # sparse tensors have no name
            message.name = name
        with _reported(self._folder):
            (self._data / file).write_bytes(message.SerializeToString(deterministic=True))

    def close(self) -> None:
        outputs = tuple(self._outputs) or self._model.graph.outputs
        graph = replace(self._model.graph, inputs=tuple(self._inputs), outputs=outputs)
        save_model(replace(self._model, graph=graph), self._folder / "model.onnx")


def open_store(
    target: Path | str, model: Model, feeds: Mapping[str, Any], kind: StoreFormat | None = None
) -> Store:
    """Return a store that writes to a file or folder.

    Args:
        target: the file; a folder for the official layout.
        model, feeds: what is run: the official layout has both.
        kind: the format; None takes it from the name: `.npz`, `.safetensors`, or a folder.

    Raises:
        OutputError: the file cannot be written, or its name does not tell the format.
    """
    path = Path(target)
    if kind is None:
        suffixes: dict[str, StoreFormat] = {".npz": "npz", ".safetensors": "safetensors", "": "official"}
        kind = suffixes.get(path.suffix.lower())
    match kind:
        case "npz":
            return NpzStore(path)
        case "safetensors":
            return SafetensorsStore(path)
        case "official":
            return OfficialStore(path, model, feeds)
    raise OutputError(
        f"cannot tell the format from {path.name!r}: name a .npz or .safetensors file or a folder, "
        "or give the format"
    )


def _parts(path: str, value: Any) -> Iterator[tuple[str, Array]]:
    """Yield the arrays that a value is made of, with names."""
    match value:
        case np.ndarray():
            yield path, value
        case SparseTensor():
            yield f"{path}.values", value.values
            yield f"{path}.indices", value.indices
        case list():
            for i, item in enumerate(value):
                yield from _parts(f"{path}[{i}]", item)


def _bytes(array: Array) -> Iterator[bytes]:
    """Yield the elements in C order, little-endian, without a copy of the whole."""
    size = max(_CHUNK // array.itemsize, 1)
    flags: Any = ("external_loop", "buffered", "zerosize_ok")
    chunks: Iterator[Any] = iter(np.nditer(array, flags=flags, order="C", buffersize=size))
    for chunk in chunks:
        yield chunk.tobytes()


def _copy(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _free_name(name: str, taken: Any) -> str:
    """Return the name, numbered if it is taken: nodes may share a name, and so what is in their bodies."""
    number = 1
    free = name
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    return free


def _claim(name: str, taken: set[str]) -> str:
    free = _free_name(name, taken)
    taken.add(free)
    return free


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn an error of the file system into one that says what could not be written."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
