"""Operators that move, cut and join tensors, and control flow: what now is an input was an attribute."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from onnx import GraphProto, TensorProto, helper

from ._versions_rows import Row, f32, i64


def rows() -> Iterator[Row]:
    """Yield the rows of this family."""
    yield from _shapes()
    yield from _cuts()
    yield from _sizes()
    yield from _codes()
    yield from _scan()


def _shapes() -> Iterator[Row]:
    yield Row(
        "test_reshape_1_shape_attribute",
        "Reshape",
        1,
        "shape is an attribute; 0 keeps a dimension and -1 is inferred",
        [f32([[1, 2], [3, 4]])],
        [f32([[[1], [2]], [[3], [4]]])],
        {"shape": [0, -1, 1]},
    )
    for version in (1, 11):
        rule = "axes is an attribute"
        name = f"_{version}_axes_attribute"
        column, row = f32([[[1], [2]]]), f32([[1, 2]])
        attributes = {"axes": [2]}
        yield Row(f"test_squeeze{name}", "Squeeze", version, rule, [column], [row], attributes)
        yield Row(f"test_unsqueeze{name}", "Unsqueeze", version, rule, [row], [column], attributes)
    yield Row(
        "test_concat_1_default_axis_1",
        "Concat",
        1,
        "axis is 1 unless given",
        [f32([[1], [2]]), f32([[3], [4]])],
        [f32([[1, 3], [2, 4]])],
    )


def _cuts() -> Iterator[Row]:
    yield Row(
        "test_slice_1_attributes",
        "Slice",
        1,
        "starts, ends and axes are attributes; an end beyond the dimension stands for the dimension",
        [f32([[1, 2, 3], [4, 5, 6]])],
        [f32([[2, 3], [5, 6]])],
        {"starts": [-2], "ends": [1000], "axes": [1]},
    )
    x, parts = f32(1, 2, 3), [f32(1), f32(2, 3)]
    for version in (1, 2, 11):
        name = f"test_split_{version}_split_attribute"
        made = [np.atleast_1d(part) for part in parts]
        yield Row(name, "Split", version, "split is an attribute", [x], made, {"split": [1, 2], "axis": 0})
    yield Row(
        "test_split_13_equal_parts_by_output_count",
        "Split",
        13,
        "without split, the input is cut into as many equal parts as there are outputs",
        [f32(1, 2, 3, 4)],
        [f32(1, 2), f32(3, 4)],
    )
    for version in (2, 11):
        yield Row(
            f"test_split_{version}_equal_parts_by_output_count",
            "Split",
            version,
            "without split, the input is cut into equal parts, by default along axis 0",
            [f32([[1, 2], [3, 4]])],
            [f32([[1, 2]]), f32([[3, 4]])],
        )
    padded = [f32([[0, 1, 2], [0, 3, 4]])]
    for version, attribute in ((1, "paddings"), (2, "pads")):
        yield Row(
            f"test_pad_{version}_{attribute}_attribute",
            "Pad",
            version,
            f"{attribute} is an attribute: the beginnings of all axes, then the ends",
            [f32([[1, 2], [3, 4]])],
            padded,
            {attribute: [0, 1, 0, 0]},
        )


def _sizes() -> Iterator[Row]:
    yield Row(
        "test_tile_1_tiles_and_axis",
        "Tile",
        1,
        "tiles and axis are scalar inputs: one axis is repeated",
        [f32([[1, 2]]), f32(2), f32(1)],
        [f32([[1, 2, 1, 2]])],
    )
    image = f32([[[[1, 2]]]])
    doubled = f32([[[[1, 1, 2, 2], [1, 1, 2, 2]]]])
    yield Row(
        "test_upsample_1_height_and_width_scale",
        "Upsample",
        1,
        "height_scale and width_scale are attributes",
        [image],
        [doubled],
        {"height_scale": 2.0, "width_scale": 2.0},
    )
    rule = "scales is an attribute with one value for each dimension"
    attributes = {"scales": [1.0, 1.0, 2.0, 2.0]}
    yield Row("test_upsample_7_scales_attribute", "Upsample", 7, rule, [image], [doubled], attributes)
    yield Row(
        "test_resize_10_scales_is_the_second_input",
        "Resize",
        10,
        "the inputs are X and scales",
        [f32(1, 2), np.array([2], np.float32)],
        [f32(1, 1, 2, 2)],
    )
    yield Row(
        "test_resize_11_tf_half_pixel_for_nn",
        "Resize",
        11,
        "tf_half_pixel_for_nn: x_original = (x_resized + 0.5) / scale",
        [f32(10, 20, 30, 40), np.zeros(0, np.float32), np.array([0.5], np.float32)],
        [f32(20, 40)],
        {"coordinate_transformation_mode": "tf_half_pixel_for_nn"},
    )


def _codes() -> Iterator[Row]:
    yield Row(
        "test_onehot_9_negative_index_is_off",
        "OneHot",
        9,
        "an index outside [0, depth) gives off_value in all places",
        [i64(-1, 1), i64(3), f32(0, 1)],
        [f32([[0, 0, 0], [0, 1, 0]])],
    )
    yield Row(
        "test_labelencoder_1_classes_strings",
        "LabelEncoder",
        1,
        "a string becomes its place in classes_strings, or default_int64 where it is not there",
        [np.array(["b", "other", "a"], object)],
        [i64(1, -1, 0)],
        {"classes_strings": ["a", "b"]},
        domain="ai.onnx.ml",
    )
    # Two quiet NaN of other bits than the key's, and then the key's own.
    keys = np.array([0x7FC00001, 0xFFC00000, 0x7FC00000], np.uint32).view(np.float32)
    yield Row(
        "test_labelencoder_2_compares_bits",
        "LabelEncoder",
        2,
        "keys are compared bit by bit, NaN too",
        [keys],
        [i64(-1, -1, 7)],
        {"keys_floats": [math.nan], "values_int64s": [7]},
        domain="ai.onnx.ml",
    )


def _scan() -> Iterator[Row]:
    yield Row(
        "test_scan_8_batches",
        "Scan",
        8,
        "dimension 0 of states and scan inputs is the batch, dimension 1 of scan inputs the sequence",
        [None, f32([0, 10]), f32([[1, 2, 3], [4, 5, 6]])],
        [f32([6, 25]), f32([[1, 3, 6], [14, 19, 25]])],
        {"num_scan_inputs": 1, "body": _running_sum()},
    )


def _running_sum() -> GraphProto:
    nodes = [
        helper.make_node("Add", ["state", "x"], ["next"]),
        helper.make_node("Identity", ["next"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in ("state", "x")]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in ("next", "y")]
    return helper.make_graph(nodes, "running_sum", inputs, outputs)
