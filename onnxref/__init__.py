"""A spec-faithful interpreter for ONNX and ONNX-ML in pure Python."""
