"""`TensorProto` to NumPy arrays: views where the bytes allow it, memory maps for external data."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from .. import dtypes
from ..dtypes import PACKED_BITS, Array, ElementType
from ..errors import ExternalDataError, ModelLoadError
from ..graph import SparseTensor
from ._wire import Payloads


def decode_tensor(
    proto: onnx.TensorProto, folder: Path | None = None, payloads: Payloads | None = None
) -> Array:
    """Return the tensor as a read-only array.

    Args:
        proto: the tensor; external data is memory-mapped, not read.
        folder: where external data may lie; None refuses external data.
        payloads: what was taken out of the file that the tensor is of.

    Raises:
        ModelLoadError: bad element type, shape or amount of data.
        ExternalDataError: external data missing, too short, or not inside `folder`.
    """
    try:
        dtype = dtypes.to_numpy(proto.data_type)
    except ValueError as error:
        raise ModelLoadError(f"tensor {proto.name!r}: {error}") from error
    shape = tuple(proto.dims)
    if any(d < 0 for d in shape):
        raise ModelLoadError(f"tensor {proto.name!r}: dimensions must not be negative (got {shape})")
    if proto.data_location == onnx.TensorProto.EXTERNAL:
        array = _from_bytes(proto, _map_external(proto, folder), shape)
    elif proto.HasField("raw_data"):
        array = _from_bytes(proto, _raw(proto.raw_data, payloads), shape)
    elif proto.data_type == ElementType.STRING:
        array = _strings(proto, shape)
    else:
        array = _from_fields(proto, shape)
    if array.dtype != dtype:
        raise ModelLoadError(f"tensor {proto.name!r}: data is {array.dtype}, declared {dtype}")
    array.flags.writeable = False
    return array


def decode_sparse(
    proto: onnx.SparseTensorProto, folder: Path | None = None, payloads: Payloads | None = None
) -> SparseTensor:
    """Return a sparse tensor, its indices checked against its shape."""
    values = decode_tensor(proto.values, folder, payloads)
    indices = decode_tensor(proto.indices, folder, payloads)
    shape = tuple(proto.dims)
    name = proto.values.name
    if not shape or any(d <= 0 for d in shape):
        raise ModelLoadError(f"sparse tensor {name!r}: dimensions must be positive (got {shape})")
    if values.ndim != 1 or indices.dtype != np.int64:
        raise ModelLoadError(f"sparse tensor {name!r}: values must be 1-D and indices int64")
    if indices.shape not in ((len(values),), (len(values), len(shape))):
        raise ModelLoadError(
            f"sparse tensor {name!r}: indices must have shape ({len(values)},) or "
            f"({len(values)}, {len(shape)}) (got {indices.shape})"
        )
    bound = np.asarray(shape if indices.ndim == 2 else math.prod(shape), dtype=object)
    if indices.size and ((indices < 0).any() or (indices >= bound).any()):
        raise ModelLoadError(f"sparse tensor {name!r}: an index lies outside the shape {shape}")
    return SparseTensor(values, indices, shape)


def byte_size(element: int, count: int) -> int:
    """Bytes that `count` elements take on the wire, sub-byte types packed."""
    bits = PACKED_BITS.get(ElementType(element))
    return -(-count * bits // 8) if bits else count * dtypes.to_numpy(element).itemsize


def _raw(raw: bytes, payloads: Payloads | None) -> Array:
    """Return raw data as an array of bytes, or what was taken out of its place."""
    taken = None if payloads is None else payloads.pop(raw)
    return np.frombuffer(raw, dtype=np.uint8) if taken is None else taken


def _from_bytes(proto: onnx.TensorProto, raw: Array, shape: tuple[int, ...]) -> Array:
    if proto.data_type == ElementType.STRING:
        raise ModelLoadError(f"tensor {proto.name!r}: strings cannot be stored as raw bytes")
    expected = byte_size(proto.data_type, math.prod(shape))
    if raw.nbytes != expected:
        raise ModelLoadError(
            f"tensor {proto.name!r}: shape {shape} needs {expected} bytes of data (got {raw.nbytes})"
        )
    if proto.data_type in PACKED_BITS:
        packed = onnx.TensorProto(data_type=proto.data_type, dims=shape, raw_data=raw.tobytes())
        return np.array(numpy_helper.to_array(packed))
    little_endian = dtypes.to_numpy(proto.data_type).newbyteorder("<")
    return raw.view(little_endian).reshape(shape)


def _strings(proto: onnx.TensorProto, shape: tuple[int, ...]) -> Array:
    # Bytes that are not UTF-8 survive as lone surrogates instead of being lost.
    texts = [item.decode("utf-8", "surrogateescape") for item in proto.string_data]
    if len(texts) != math.prod(shape):
        raise ModelLoadError(f"tensor {proto.name!r}: shape {shape} does not fit {len(texts)} strings")
    array = np.empty(len(texts), dtype=np.object_)
    array[:] = texts
    return array.reshape(shape)


def _from_fields(proto: onnx.TensorProto, shape: tuple[int, ...]) -> Array:
    try:
        # A copy, because this may be a view of memory that protobuf owns.
        return np.array(numpy_helper.to_array(proto)).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelLoadError(f"tensor {proto.name!r} of shape {shape}: {error}") from error


def _map_external(proto: onnx.TensorProto, folder: Path | None) -> Array:
    entries = {entry.key: entry.value for entry in proto.external_data}
    location = entries.get("location", "")
    where = f"tensor {proto.name!r}: external data {location!r}"
    if folder is None:
        raise ExternalDataError(f"{where} needs the model's folder: pass the model by its path")
    try:
        offset = int(entries.get("offset", 0))
        wanted = byte_size(proto.data_type, math.prod(proto.dims))
        length = int(entries.get("length", wanted))
    except ValueError as error:
        raise ExternalDataError(f"{where}: offset and length must be integers ({error})") from error
    with open(_open_inside(folder, location, where), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if offset < 0 or length < 0 or offset + length > size:
            raise ExternalDataError(f"{where} wants bytes {offset} to {offset + length} of {size}")
        if length == 0:
            return np.empty(0, dtype=np.uint8)
        return np.memmap(file, dtype=np.uint8, mode="r", offset=offset, shape=(length,))


def _open_inside(folder: Path, location: str, where: str) -> int:
    """Open a regular file that really lies inside `folder`; no link of any kind leads there."""
    parts = Path(location).parts
    if not parts or Path(location).is_absolute() or ".." in parts:
        raise ExternalDataError(f"{where} must be a relative path inside the model's folder")
    base = Path(os.path.realpath(folder))
    path = base / location
    if Path(os.path.realpath(path)) != path:
        raise ExternalDataError(f"{where} must not be reached through a symbolic link")
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise ExternalDataError(f"{where} cannot be opened: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise ExternalDataError(f"{where} must be a regular file without hard links")
    return descriptor
