"""From a file, bytes or protobuf object to a `Graph`: the only room that touches protobuf."""

from ._load import load_model
from ._values import read_value_file

__all__ = ["load_model", "read_value_file"]
