"""Trains the model in this folder: handwritten digits, a small neural network, exported by hand.

    python examples/train_digits.py

Needs scikit-learn and Pillow. Writes `digits.onnx` (images (N, 1, 8, 8), ink in [0, 1] -> label and
probabilities) and `digit.png` (one image that the training never saw, enlarged).
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

HERE = Path(__file__).parent
ENLARGE = 16


def main() -> None:
    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels / 16.0
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, labels, test_size=0.25, random_state=1, stratify=labels
    )
    network = MLPClassifier((64, 32), alpha=1e-3, max_iter=400, random_state=1).fit(train_x, train_y)
    print(f"accuracy on {len(test_y)} unseen images: {network.score(test_x, test_y):.3f}")
    onnx.save(export(network), HERE / "digits.onnx")
    shown = (255 * test_x[0].reshape(8, 8)).round().astype(np.uint8)  # light ink on black, as in the data
    Image.fromarray(np.kron(shown, np.ones((ENLARGE, ENLARGE), np.uint8))).save(HERE / "digit.png")
    print(f"digit.png shows a {test_y[0]}")


def export(network: MLPClassifier) -> onnx.ModelProto:
    """Return the network as ONNX nodes: Flatten, then Gemm and Relu in turn, then Softmax."""
    nodes = [helper.make_node("Flatten", ["image"], ["x0"])]
    weights = []
    for i, (weight, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"w{i}"))
        weights.append(numpy_helper.from_array(bias.astype(np.float32), f"b{i}"))
        last = i == len(network.coefs_) - 1
        nodes.append(helper.make_node("Gemm", [f"x{i}", f"w{i}", f"b{i}"], ["logits" if last else f"h{i}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"h{i}"], [f"x{i + 1}"]))
    nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    nodes.append(helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 1, 8, 8])],
        [
            helper.make_tensor_value_info("label", onnx.TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["N", 10]),
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], producer_name="onnxref")
    model.ir_version = 10
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    main()
