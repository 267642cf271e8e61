"""Versions of which every model means the same under the newest version of the operator, and why."""

from __future__ import annotations

from collections.abc import Iterator

SAME_FORM = "attributes, inputs and outputs are the same; only types were added or the wording changed"

# Operator and versions, of ai.onnx.
_SAME_FORM = """
Abs 6, Acos 7, Acosh 9, Add 7 13, ArgMax 12, ArgMin 12, Asin 7, Asinh 9, Atan 7, Atanh 9
Bernoulli 15, Cast 24 25, CastLike 24, Ceil 6, Celu 12, Compress 11, Concat 11
Constant 12 13 19 21 23 24, ConstantOfShape 9 20 21 23 24, Conv 1 11, ConvTranspose 11, Cos 7, Cosh 9
CumSum 11, DeformConv 19, DepthToSpace 11 13, DequantizeLinear 23 24 25, Det 11, Div 7 13
Einsum 12, Elu 6, Equal 7 11 13, Erf 9, Exp 6, Expand 8, EyeLike 9, Flatten 11 13 21 23 24, Floor 6
GRU 14, Gather 11, GatherElements 11, GatherND 12, Gemm 11, GlobalAveragePool 1, GlobalLpPool 2
GlobalMaxPool 1, Greater 7 9, GreaterOrEqual 12, GridSample 20, HardSigmoid 6, HardSwish 14
Identity 1 13 14 16 19 21 23 24, If 1 11 13 16 19 21 23 24, InstanceNormalization 6, IsInf 10, IsNaN 9 13
LRN 1, LSTM 14, LeakyRelu 6, Less 7 9, LessOrEqual 12, Log 6, Loop 1 11 13 16 19 21 23 24
LpNormalization 1, LpPool 18, MatMul 1 9, Max 8 12, MaxRoiPool 1, MaxUnpool 9 11, Mean 8
MeanVarianceNormalization 9, Min 8 12, Mish 18, Mul 7 13, Multinomial 7, Neg 6
NegativeLogLikelihoodLoss 12 13, NonMaxSuppression 10, NonZero 9, OneHot 11, Optional 15
OptionalGetElement 18, OptionalHasElement 18, PRelu 7 9, Pad 19 21 23 24, Pow 7 12 13, QLinearMatMul 10
QuantizeLinear 23 24 25, RNN 14, RandomNormal 1, RandomNormalLike 1, RandomUniform 1, RandomUniformLike 1
Reciprocal 6, ReduceLogSum 18, ReduceLogSumExp 18, ReduceMax 18, ReduceMin 18, Relu 6 13
Reshape 14 19 21 23 24, ReverseSequence 10, RoiAlign 16, Round 11, Scan 11 16 19 21 23 24
ScatterElements 16, ScatterND 16, Selu 6, Shape 15 19 21 23 24, Sigmoid 6, Sign 9, Sin 7, Sinh 9
Size 1 13 19 21 23 24, Slice 11, SoftmaxCrossEntropyLoss 12, Softplus 1, Softsign 1, SplitToSequence 11
Sqrt 6, Squeeze 13 21 23 24, Sub 7 13, Sum 8, Tan 7, Tanh 6, ThresholdedRelu 10, Tile 6, TopK 11
Transpose 1 13 21 23 24, Unique 11, Unsqueeze 13 21 23 24, Where 9
"""

# Reason, domain, operators and versions.
_SAME_MEANING = [
    (
        "an attribute or input was added whose default is the old rule",
        "",
        "Attention 23 24, AveragePool 1 7, Cast 13 19 21 23, CastLike 15 19 21 23, Constant 1 9 11, "
        "DepthToSpace 1, DequantizeLinear 10 13 19 21, GRU 7, GatherND 11, Gemm 7 9, LSTM 7, LpPool 2 11, "
        "MaxPool 1 8, Pad 11 13, QuantizeLinear 10 13 19 21, RNN 7, Range 11, Reshape 5 13, Resize 13, "
        "ScatterElements 11 13, ScatterND 11 13, Shape 1 13, SpaceToDepth 1 13, TopK 10, ArgMax 11, "
        "ArgMin 11",
    ),
    (
        "negative axes or indices, which the text did not allow, were added",
        "",
        "ArgMax 1, ArgMin 1, Compress 9, Concat 4, Flatten 1 9, Gather 1, Scan 9, Slice 10",
    ),
    (
        "equal shapes were demanded where broadcasting was added",
        "",
        "Max 6, Mean 6, Min 6, Sum 6",
    ),
    (
        "casts from and to strings were added, besides attributes whose default is the old rule",
        "",
        "Cast 6 9",
    ),
    (
        "the input became optional, and may be a plain tensor or sequence",
        "",
        "OptionalHasElement 15",
    ),
    (
        "plain tensors and sequences are handed on besides optionals",
        "",
        "OptionalGetElement 15",
    ),
    (
        "the text left open what was defined later: min above max",
        "",
        "Clip 11 12",
    ),
    (
        "the text left open what was defined later: shifts by a negative amount or by the whole width",
        "",
        "BitShift 11",
    ),
    (
        "the text left open what was defined later: statistics of float16 are computed in float",
        "",
        "BatchNormalization 14",
    ),
    (
        "the text left open what was defined later, as it contradicted itself: training without a ratio",
        "",
        "Dropout 12 13",
    ),
    (
        "fmod=0 was for integers only; floats and their special values were added",
        "",
        "Mod 10 13",
    ),
    (
        "the mode wrap was added",
        "",
        "Pad 18",
    ),
    (
        "the coordinate mode half_pixel_symmetric was added",
        "",
        "Resize 18",
    ),
    (
        "the text left open the value of a ceil_mode window beyond the input; version 22 drops such windows",
        "",
        "AveragePool 10 11 19, MaxPool 10 11 12",
    ),
    (
        "the newest version only deprecates the operator",
        "",
        "Scatter 9, Upsample 9",
    ),
    (
        "the newest version only deprecates the operator",
        "ai.onnx.ml",
        "TreeEnsembleClassifier 1 3, TreeEnsembleRegressor 1 3",
    ),
]

# Versions with rules of their own that no case tests.
NOT_YET: frozenset[tuple[str, str, int]] = frozenset()


def _entries() -> Iterator[tuple[tuple[str, str, int], str]]:
    for reason, domain, text in [(SAME_FORM, "", _SAME_FORM), *_SAME_MEANING]:
        for entry in text.replace("\n", ",").split(","):
            operator, *versions = entry.split() or [""]
            for version in versions:
                yield (domain, operator, int(version)), reason


# (domain, operator, version) to the reason.
SAME_RULES: dict[tuple[str, str, int], str] = dict(_entries())
