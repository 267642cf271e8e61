"""External data is mapped, and only from regular files inside the model's folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxref
from onnxref import ExternalDataError
from onnxref.model import load_model

WEIGHT = np.arange(12, dtype=np.float32)


def _model(location: str, **entries: object) -> onnx.ModelProto:
    tensor = TensorProto(name="w", data_type=1, dims=[12], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", 1, [12])],
        [tensor],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _save(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_data_is_mapped_at_its_offset(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"abc" + WEIGHT.tobytes() + b"rest")
    path = _save(tmp_path, _model("sub/w.bin", offset=3, length=48))
    np.testing.assert_array_equal(onnxref.run(path)["y"], WEIGHT, strict=True)
    root = load_model(path).graph.initializers["w"]
    while not isinstance(root, np.memmap):
        root = root.base
    assert isinstance(root, np.memmap)


def test_file_object_knows_its_folder(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    with _save(tmp_path, _model("w.bin")).open("rb") as file:
        np.testing.assert_array_equal(onnxref.run(file)["y"], WEIGHT)


def test_packed_types(tmp_path: Path) -> None:
    model = _model("w.bin")
    model.graph.initializer[0].data_type = TensorProto.INT4
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT4
    (tmp_path / "w.bin").write_bytes(bytes([0x21, 0x43, 0x65, 0x07, 0x98, 0xBA]))
    y = onnxref.run(_save(tmp_path, model))["y"]
    assert y.tolist() == [1, 2, 3, 4, 5, 6, 7, 0, -8, -7, -6, -5]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": 4}, "wants bytes 4 to 52 of 48"),
        ({"offset": -4}, "wants bytes -4"),
        ({"length": 40}, "needs 48 bytes of data .got 40."),
        ({"offset": "x"}, "must be integers"),
    ],
)
def test_wrong_extent(tmp_path: Path, entries: dict[str, object], message: str) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    with pytest.raises(onnxref.ModelError, match=message):
        load_model(_save(tmp_path, _model("w.bin", **entries)))


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "a/../../secret.bin", ""])
def test_outside_the_folder(tmp_path: Path, location: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    with pytest.raises(ExternalDataError, match="must be a relative path inside the model's folder"):
        load_model(_save(inside, _model(location)))


def test_links_are_refused(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    secret = tmp_path / "secret.bin"
    secret.write_bytes(WEIGHT.tobytes())
    (inside / "link.bin").symlink_to(secret)
    (inside / "folder").symlink_to(tmp_path)
    os.link(secret, inside / "hard.bin")
    for location in ("link.bin", "folder/secret.bin"):
        with pytest.raises(ExternalDataError, match="symbolic link"):
            load_model(_save(inside, _model(location)))
    with pytest.raises(ExternalDataError, match="without hard links"):
        load_model(_save(inside, _model("hard.bin")))


def test_only_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for location in ("pipe", "folder"):
        with pytest.raises(ExternalDataError, match="must be a regular file"):
            load_model(_save(tmp_path, _model(location)))


def test_missing_file_and_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ExternalDataError, match="cannot be opened: No such file"):
        load_model(_save(tmp_path, _model("w.bin")))
    with pytest.raises(ExternalDataError, match="pass the model by its path"):
        load_model(_model("w.bin"))
