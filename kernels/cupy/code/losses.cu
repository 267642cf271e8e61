// Losses of classification. T: type of scores and weights; TARGET: type of the classes; GROUP: threads that have a
// position, 1, a warp or a block; IS_CROSS: whether scores are to be made log-probabilities; HAS_WEIGHT,
// HAS_IGNORED; FINAL: whether sums become the result, IS_MEAN: divided by the sum of factors.
// Scores lie as (batch, classes, inner); a position is one of batch times inner.
typedef Wide<T>::type W;

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }

template <class Combine> __device__ __forceinline__ W of_group(W value, Combine combine, W *held) {
    if (GROUP == WARP) return warp_all(value, combine);
    if (GROUP > WARP) return block_all(value, combine, held);
    return value;
}

// The loss of each position, and its weight where `factor` is given; OUT: type of the losses.
extern "C" __global__ void losses(const T *__restrict__ x, const TARGET *__restrict__ target,
                                  const T *__restrict__ weight, OUT *__restrict__ loss, W *__restrict__ factor,
                                  long long *fault, long long positions, long long classes, long long inner,
                                  long long ignored) {
    __shared__ W held[32];
    long long at = first_index() / GROUP, before = at / inner;
    int lane = threadIdx.x % GROUP, count = at < positions ? int(classes) : 0;
    const T *scores = x + before * classes * inner + (at - before * inner);
    W largest = W(-INFINITY), sum = W(0);
    if (IS_CROSS) {
#pragma unroll 4
        for (int c = lane; c < count; c += GROUP) largest = max_nan(largest, W(widen(scores[c * inner])));
        largest = of_group(largest, Maximum(), held);
#pragma unroll 4
        for (int c = lane; c < count; c += GROUP) sum += exponential(W(widen(scores[c * inner])) - largest);
        sum = of_group(sum, Sum(), held);
    }
    if (at >= positions || lane) return;
    long long which = (long long)target[at];
    bool is_ignored = HAS_IGNORED && which == ignored;
    W value = W(0), share = W(0);
    if (!is_ignored && (which < 0 || which >= classes)) {
        *fault = 1;
    } else if (!is_ignored) {
        W chosen = widen(scores[which * inner]);
        if (IS_CROSS) chosen = (chosen - largest) - logarithm(sum);
        share = HAS_WEIGHT ? W(widen(weight[which])) : W(1);
        value = -chosen * share;
    }
    loss[at] = narrow<OUT>(value);
    if (factor) factor[at] = share;
}
