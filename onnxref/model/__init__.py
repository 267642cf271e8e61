"""From a file, bytes or protobuf object to a `Graph`: the only room that touches protobuf."""

from ._check import check_model
from ._load import load_model
from ._tensors import decode_tensor

__all__ = ["check_model", "decode_tensor", "load_model"]
