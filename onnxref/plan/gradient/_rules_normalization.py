"""Normalizations as formulas of simpler operators, which are differentiated in their place."""

from __future__ import annotations

from ._table import Call, Gradients, decomposition
from ._tape import Term


def _standardize(x: Term, axes: list[int], epsilon: float) -> tuple[Term, Term, Term]:
    """Return the standardized input, the mean and the inverse standard deviation along axes."""
    mean = x.mean(axes)
    deviation = x - mean
    inverse_std = 1.0 / ((deviation * deviation).mean(axes) + epsilon).apply("Sqrt")
    return deviation * inverse_std, mean, inverse_std


def _column(x: Term) -> Term:
    """Return a vector (C,) as (C, 1), which broadcasts with (N, C, rest)."""
    return x.reshape([-1, 1])


def _channels(x: Term, spatial: int = 1) -> Term:
    """Return x (N, C, ...) as (N, C, rest)."""
    return x.reshape(x.internal("ChannelShape", spatial=spatial))


def _is_training(call: Call) -> bool:
    if call.version >= 14:
        return bool(call.attribute("training_mode"))
    return len(call.node.outputs) > 1 if call.version >= 7 else not call.attribute("is_test")


@decomposition("BatchNormalization")
def _batch_normalization(call: Call) -> Gradients:
    """Outputs besides Y: running mean and variance, and before version 14 those of the batch."""
    spatial = call.attribute("spatial")
    mean, var = (_column(call[i]) for i in (3, 4))
    # Statistics may be of a wider type, in which the node computes.
    x = _channels(call.x, 1 if spatial is None else spatial).apply("CastLike", mean)
    scale, b = (_column(call[i]).apply("CastLike", mean) for i in (1, 2))
    epsilon, momentum = call.attribute("epsilon"), call.attribute("momentum")
    statistics: list[Term] = []
    if _is_training(call):
        batch_mean = x.mean([0, 2])
        deviation = x - batch_mean
        batch_var = (deviation * deviation).mean([0, 2])
        batch = [batch_mean.reshape([-1, 1]), batch_var.reshape([-1, 1])]
        running = [old * momentum + new * (1 - momentum) for old, new in zip((mean, var), batch, strict=True)]
        statistics = [s.reshape([-1]) for s in (*running, *batch)]
        var = batch[1]
    else:
        deviation = x - mean
    y = deviation * (scale / (var + epsilon).apply("Sqrt")) + b
    return [y.reshape(call.x.shape).apply("CastLike", call.x), *statistics]


@decomposition("InstanceNormalization")
def _instance_normalization(call: Call) -> Gradients:
    y, _, _ = _standardize(_channels(call.x), [2], call.attribute("epsilon"))
    return [(y * _column(call[1]) + _column(call[2])).reshape(call.x.shape)]


@decomposition("GroupNormalization")
def _group_normalization(call: Call) -> Gradients:
    x, groups = call.x, call.attribute("num_groups")
    channels = _channels(x)
    grouped = x.reshape(x.internal("ChannelShape", groups=groups))
    stash = call.attribute("stash_type")
    wide = grouped.apply("Cast", to=stash) if call.version >= 21 else grouped
    y = _standardize(wide, [2], call.attribute("epsilon"))[0].apply("CastLike", x)
    if call.version >= 21:  # scale and bias per channel, before that per group
        y = y.reshape(channels.shape)
    y = y * _column(call[1]) + _column(call[2])
    return [y.reshape(x.shape)]


@decomposition("LayerNormalization")
def _layer_normalization(call: Call) -> Gradients:
    x = call.x
    rows = x.apply("Flatten", axis=call.attribute("axis")).apply("Cast", to=call.attribute("stash_type"))
    y, mean, inverse_std = _standardize(rows, [1], call.attribute("epsilon"))
    y = y.reshape(x.shape).apply("CastLike", x) * call[1]
    bias = call.get(2)
    y = y if bias is None else y + bias
    outputs = [y]
    for i, statistic in ((1, mean), (2, inverse_std)):
        if i < len(call.outputs) and (shown := call.outputs[i]):
            outputs.append(statistic.reshape(shown.shape))
        else:
            outputs.append(statistic)
    return outputs


@decomposition("RMSNormalization")
def _rms_normalization(call: Call) -> Gradients:
    x, scale = call.x, call[1]
    rows = x.apply("Flatten", axis=call.attribute("axis")).apply("Cast", to=call.attribute("stash_type"))
    inverse = 1.0 / ((rows * rows).mean([1]) + call.attribute("epsilon")).apply("Sqrt")
    y = (rows * inverse).reshape(x.shape).apply("CastLike", x).apply("CastLike", scale)
    return [y * scale]


@decomposition("LpNormalization")
def _lp_normalization(call: Call) -> Gradients:
    norm = call.x.apply(f"ReduceL{call.attribute('p')}", call.tape.ints([call.attribute("axis")]), keepdims=1)
    return [call.x / call.tape.where(norm.equals(0.0), 1.0, norm)]


@decomposition("MeanVarianceNormalization")
def _mean_variance_normalization(call: Call) -> Gradients:
    axes = list(call.attribute("axes"))
    deviation = call.x - (call.x.mean(axes) if axes else call.x.apply("ReduceMean"))
    squares = deviation * deviation
    variance = squares.mean(axes) if axes else squares.apply("ReduceMean")
    return [deviation / (variance.apply("Sqrt") + 1e-9)]


@decomposition("LRN")
def _lrn(call: Call) -> Gradients:
    """The sum over neighbouring channels is an average pool of (N, 1, C, rest) along C."""
    x, size = _channels(call.x), call.attribute("size")
    squares = (x * x).apply("Unsqueeze", call.tape.ints([1]))
    pads = ((size - 1) // 2, 0, size // 2, 0)
    mean = squares.apply("AveragePool", kernel_shape=(size, 1), pads=pads, count_include_pad=1)
    base = mean.apply("Squeeze", call.tape.ints([1])) * call.attribute("alpha") + call.attribute("bias")
    return [(x * base.apply("Pow", x.coerce(-call.attribute("beta")))).reshape(call.x.shape)]
