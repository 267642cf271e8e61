"""From a file, bytes or protobuf object to a `Graph`: the only room that touches protobuf."""

from ._load import load_model
from ._serde import canonical_domain
from ._values import read_value_file

__all__ = ["canonical_domain", "load_model", "read_value_file"]
