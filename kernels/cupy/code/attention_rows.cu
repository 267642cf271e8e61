// What lies round attention by matrix products: softmax of rows of scores, with masks; caches behind each other.
// A block has a row of scores (batch, head, query), which is overwritten; `first_unit` heads of K and V came before.
#include "attention.cuh"

extern "C" __global__ void __launch_bounds__(256)
softmax_of_scores(T *__restrict__ scores, const M *__restrict__ mask, const long long *__restrict__ lengths,
                  long long *fault, Ints<6> sizes, Ints<4> mask_steps, Ints<6> rules, long long first_unit,
                  double softcap, double fill) {
    __shared__ Exponentials<W> held[8];
    int queries = int(sizes.v[QUERIES]), heads = int(sizes.v[HEADS]), keys = int(sizes.v[KEYS]);
    long long row = blockIdx.x + first_unit * (heads / sizes.v[KV_HEADS]) * queries;
    int i = int(row % queries), head = int(row / queries % heads), batch = int(row / queries / heads);
    scores += (long long)blockIdx.x * keys;
    long long at = batch * mask_steps.v[0] + head * mask_steps.v[1] + i * mask_steps.v[2];
    Span span = span_of(sizes, rules, lengths, fault, batch, i);
    bool seen = false;
    Exponentials<W> total = {W(-INFINITY), W(0)};
    for (int j = span.first + threadIdx.x; j < span.end; j += 256) {
        W value = scored(widen(scores[j]), W(softcap), mask, at + j * mask_steps.v[3], rules.v[HIDES] != 0, W(fill), seen);
        scores[j] = narrow<T>(value);
        W most = larger(total.largest, value), shift = most == W(-INFINITY) ? W(0) : most;
        if (most != total.largest) total.sum *= exponential(total.largest - shift);
        total.sum += exponential(value - shift);
        total.largest = most;
    }
    for (int offset = WARP / 2; offset; offset >>= 1) total = joined(total, shuffled(total, offset));
    if (threadIdx.x % WARP == 0) held[threadIdx.x / WARP] = total;
    __syncthreads();
    total = held[0];
    for (int w = 1; w < 8; w++) total = joined(total, held[w]);
    __shared__ int held_seen[8];
    int shown = __any_sync(FULL_WARP, seen);
    if (threadIdx.x % WARP == 0) held_seen[threadIdx.x / WARP] = shown;
    __syncthreads();
    for (int w = 0; w < 8; w++) shown |= held_seen[w];
    W factor = normalizer(total.sum, shown != 0, rules.v[BLIND]);
    W shift = total.largest == W(-INFINITY) ? W(0) : total.largest;
    for (int j = threadIdx.x; j < keys; j += 256) {
        bool visible = j >= span.first && j < span.end;
        scores[j] = narrow<T>(visible ? normalized(power(W(widen(scores[j])) - shift), factor) : W(0));
    }
}
