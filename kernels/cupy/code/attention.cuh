// What the kernels of attention have in common: which keys a query sees, and what becomes of their scores.
// T: type of Q, K, V and Y. MASK: 0 none, 1 of bools, 2 added to scores. M: type of the mask.
#include "online.cuh"

typedef Wide<T>::type W;

__device__ __forceinline__ float hyperbolic(float x) { return tanhf(x); }
__device__ __forceinline__ double hyperbolic(double x) { return tanh(x); }

// Places in `sizes`, in `steps` (those between batches, heads and rows, in elements), in `rules`.
enum { HEADS, KV_HEADS, QUERIES, KEYS, SIZE, VALUE_SIZE };
enum { OF_Q = 0, OF_K = 3, OF_V = 6, OF_Y = 9 };
// LEFT, RIGHT: keys seen before and after the query's own position, -1 all of them; LIMIT: keys that anybody sees;
// HIDES: the value of a bool mask that hides; BLIND: what a query gives that sees no key: 0 zeros, 1 NaN,
// 2 zeros, and also where there is a NaN among its scores.
enum { PAST, LEFT, RIGHT, LIMIT, HIDES, BLIND };

struct Span { int first, end; };

// Keys that query i of a batch sees; a wrong length is reported and cut.
__device__ __forceinline__ Span span_of(const Ints<6> &sizes, const Ints<6> &rules, const long long *lengths,
                                        long long *fault, int batch, long long i) {
    long long end = rules.v[LIMIT], first = 0, position = rules.v[PAST] + i;
    if (lengths) {
        long long length = lengths[batch];
        if (length < 0 || length > sizes.v[KEYS]) {
            *fault = 1;
            length = 0;
        }
        position += length - sizes.v[QUERIES];
        end = min(end, length);
    }
    if (rules.v[RIGHT] >= 0) end = min(end, position + rules.v[RIGHT] + 1);
    if (rules.v[LEFT] >= 0) first = max(first, position - rules.v[LEFT]);
    return {int(first), int(max(first, end))};
}

// The score of a visible key; `seen` becomes true where the mask does not hide it altogether.
__device__ __forceinline__ W scored(W product, W softcap, const M *mask, long long at, bool hides, W fill, bool &seen) {
    if (softcap != W(0)) product = hyperbolic(product / softcap) * softcap;
#if MASK == 1
    if (bool(mask[at]) == hides) {
        product = fill;
        seen |= fill != W(-INFINITY);
    } else {
        seen = true;
    }
#elif MASK == 2
    W bias = W(widen(mask[at]));
    seen |= bias != W(-INFINITY);
    product += bias;
#else
    seen = true;
#endif
    return product;
}

// exp of what is never positive.
__device__ __forceinline__ W power(W value) {
    return sizeof(T) == 2 ? W(__expf(float(value))) : exponential(value);
}

// What sums of values are to be multiplied by.
__device__ __forceinline__ W normalizer(W sum, bool seen, long long blind) {
    if (blind == 0 && !seen) return W(0);
    if (blind == 2 && !(sum > W(0))) return W(0);
    return W(1) / sum;
}

// Nothing of what was summed may show where the factor is zero.
__device__ __forceinline__ W normalized(W value, W factor) { return factor == W(0) ? W(0) : value * factor; }
