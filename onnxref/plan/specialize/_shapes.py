"""Which operators have outputs whose shapes follow from the shapes of their inputs.

Everything not named here does: its output shapes are a function of input shapes and attributes. A test
holds the table to onnx's shape inference, which sees no values.
"""

from __future__ import annotations

from ...graph import Node, subgraphs

# Inputs whose values, not only shapes, decide the shape of an output; in order of the schema.
_SHAPED_BY = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "DFT": (1, 2),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "OneHot": (1,),
    "Pad": (1, 3),
    "PaddedNonMaxSuppression": (2,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "STFT": (1, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1, 2),
    "TopK": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
_REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)
_SHAPED_BY.update((name, (1,)) for name in _REDUCTIONS)

# Operators whose output shapes follow from values in general, or whose values are no tensors.
_DYNAMIC = frozenset(
    [
        "CastMap",
        "Compress",
        "ConcatFromSequence",
        "DictVectorizer",
        "If",
        "ImageDecoder",
        "Loop",
        "NonMaxSuppression",
        "NonZero",
        "Optional",
        "OptionalGetElement",
        "OptionalHasElement",
        "RegexFullMatch",
        "Scan",
        "SequenceAt",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceLength",
        "SequenceMap",
        "SplitToSequence",
        "StringConcat",
        "StringNormalizer",
        "StringSplit",
        "Tokenizer",
        "Unique",
        "ZipMap",
    ]
)

# What gives other values for the same inputs: never taken for known.
RANDOM = frozenset(
    [
        "Bernoulli",
        "Dropout",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    ]
)

# Their outputs follow from the shape of their input alone.
OF_SHAPE = frozenset(("Shape", "Size"))


def shaped_by(node: Node) -> tuple[int, ...] | None:
    """Return the inputs whose values decide the node's output shapes; None where nothing fixes them."""
    if node.op_type in _DYNAMIC or (node.attributes and subgraphs(node)):
        return None
    return _SHAPED_BY.get(node.op_type, ())
