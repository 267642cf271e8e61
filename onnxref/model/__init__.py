"""From a file, bytes or protobuf object to a `Model` and back: the only room that touches protobuf."""

from ._load import load_model
from ._serde import canonical_domain
from ._tensors import decode_tensor
from ._values import read_value_file
from ._write import encode_value, save_model, to_proto, write_case

__all__ = [
    "canonical_domain",
    "decode_tensor",
    "encode_value",
    "load_model",
    "read_value_file",
    "save_model",
    "to_proto",
    "write_case",
]
