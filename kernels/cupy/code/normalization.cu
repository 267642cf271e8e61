// Normalisation of rows: by mean and variance, by mean square, by an L1 or L2 norm.
// T: element type; P: of scale, bias and the result; W: of the statistics.
// STATISTIC: 0 mean and variance, 1 mean square, 2 L1 norm, 3 L2 norm.
// PARAMETERS: 0 none; 1 one for each element of a row; 2 one for each channel. HAS_BIAS: whether bias is given.
// ROUND_FIRST: the normalised value is rounded to T before the parameters are applied.
// HAS_SKIP: what is normalised is x + skip, which goes to `added`. CHANNEL_LAST: in a row the channel changes
// fastest. SEGMENTED: a row lies in pieces. GROUP, ITEMS, VEC, BOUND: see row_groups.cuh and softmax.cu; with
// ITEMS 0 a row is read again instead of held.
#include "row_groups.cuh"

// Elements that a thread holds: `value`, ITEMS vectors of them.
#define EACH_HELD(BODY) _Pragma("unroll") for (int k = 0; k < HELD; k++) { \
        int j = begin + k * stride; W *now = value[k]; if (j < count) { BODY } }
#if ITEMS
#define HELD ITEMS
#define EACH EACH_HELD
#else
#define HELD 1
#define EACH(BODY) for (int j = begin; j < count; j += stride) { \
        W now[VEC]; load(x, skip, nullptr, row, j, now); BODY }
#endif
#define ELEMENTS(BODY) _Pragma("unroll") for (int e = 0; e < VEC; e++) { W v = now[e]; BODY }

typedef Wide<T>::type V;
typedef Wide<P>::type U;
typedef Vec<T, VEC> Pack;

__device__ __forceinline__ float root(float value) { return sqrtf(value); }
__device__ __forceinline__ double root(double value) { return sqrt(value); }

// A row's first element, and its element j. `g`: extent and pitch of a piece; rows side by side, the distance
// between those, and between groups of them; then groups, parameters of a group, and elements of a channel.
struct Row {
    long long first;
    int piece, parameter, span;
    long long pitch;
    __device__ __forceinline__ Row(long long row, long long n, const Ints<8> &g) {
        first = row * n;
        if (SEGMENTED) first = quotient(row, g.v[2]) * g.v[4] + remainder_of(row, g.v[2]) * g.v[3];
        piece = int(g.v[0]);
        pitch = g.v[1];
        parameter = PARAMETERS == 2 ? int(remainder_of(row, g.v[5]) * g.v[6]) : 0;
        span = int(g.v[7]);
    }
    __device__ __forceinline__ long long at(int j) const {
        return SEGMENTED ? first + j / piece * pitch + j % piece : first + j;
    }
    __device__ __forceinline__ int parameter_of(int j) const {
        if (PARAMETERS == 1) return j;
        return parameter + (CHANNEL_LAST ? j % span : j / span);
    }
};

// What is added up in a first pass.
__device__ __forceinline__ W term(W value) {
    return STATISTIC == 0 ? value : STATISTIC == 2 ? (value < 0 ? -value : value) : value * value;
}

// By what, from the sum of squares or of magnitudes, a value is multiplied; for norms, divided.
__device__ __forceinline__ W factor_of(W total, long long n, double epsilon, double beside) {
    if (STATISTIC >= 2) {
        W norm = STATISTIC == 3 ? root(total) : total;
        return norm == W(0) ? W(INFINITY) : norm;
    }
    W deviation = root(total / W(n) + W(epsilon));
    return W(1) / (beside != 0 ? deviation + W(beside) : deviation);
}

// The elements of a vector made ready and stored.
__device__ __forceinline__ void store(P *y, const Row &row, int j, const W *value, W mean, W factor,
                                      const P *scale, const P *bias) {
    Vec<P, VEC> made, scales, biases;
    int first = row.parameter_of(j);
    const int step = PARAMETERS == 1 || CHANNEL_LAST;
    if (PARAMETERS == 1) {
        scales = *(const Vec<P, VEC> *)(scale + first);
        if (HAS_BIAS) biases = *(const Vec<P, VEC> *)(bias + first);
    }
#pragma unroll
    for (int e = 0; e < VEC; e++) {
        W normal = STATISTIC == 0 ? (value[e] - mean) * factor
                                  : STATISTIC == 1 ? value[e] * factor : value[e] / factor;
        U result = ROUND_FIRST ? U(widen(narrow<T>(V(normal)))) : U(normal);
        if (PARAMETERS == 2) {
            scales.v[e] = scale[first + e * step];
            if (HAS_BIAS) biases.v[e] = bias[first + e * step];
        }
        if (PARAMETERS) result *= widen(scales.v[e]);
        if (PARAMETERS && HAS_BIAS) result += widen(biases.v[e]);
        made.v[e] = narrow<P>(result);
    }
    *(Vec<P, VEC> *)(y + row.at(j)) = made;
}

// Elements j to j + VEC of a row; with a skip their sum is kept.
__device__ __forceinline__ void load(const T *x, const T *skip, T *added, const Row &row, int j, W *value) {
    Pack given = *(const Pack *)(x + row.at(j));
    if (HAS_SKIP) {
        Pack other = *(const Pack *)(skip + row.at(j));
#pragma unroll
        for (int e = 0; e < VEC; e++) given.v[e] = narrow<T>(V(widen(given.v[e]) + widen(other.v[e])));
        if (added) *(Pack *)(added + row.at(j)) = given;
    }
#pragma unroll
    for (int e = 0; e < VEC; e++) value[e] = W(widen(given.v[e]));
}

// A group of threads has a row, and holds it in registers (or reads it again, with ITEMS 0).
extern "C" __global__ void __launch_bounds__(BOUND)
normalize_rows(const T *x, const T *skip, const P *__restrict__ scale, const P *__restrict__ bias, P *y,
               T *added, W *__restrict__ means, W *__restrict__ factors, long long rows, long long n, Ints<8> geometry,
               double epsilon, double beside) {
    __shared__ W held[32];
    long long index = group_row();
    bool is_row = index < rows;
    Row row(is_row ? index : 0, n, geometry);
    int thread = group_thread(), threads = group_threads(), count = is_row ? int(n) : 0;
    int stride = threads * VEC, begin = thread * VEC;
    W mean = 0, total = 0;
#if ITEMS
    W value[ITEMS][VEC];
    EACH(load(x, skip, added, row, j, now);)
#endif
    EACH(ELEMENTS(total += term(v);))
    total = group_all(total, Sum(), held);
    if (STATISTIC == 0) {
        mean = total / W(n);
        total = 0;
        EACH(ELEMENTS(total += (v - mean) * (v - mean);))
        total = group_all(total, Sum(), held);
    }
    W factor = factor_of(total, n, epsilon, beside);
    if (means && is_row && thread == 0) means[index] = mean;
    if (factors && is_row && thread == 0) factors[index] = factor;
    EACH(store(y, row, j, now, mean, factor, scale, bias);)
}

// The statistics of a part of a row, `length` elements: their mean, and sum of what `term` makes of the rest.
extern "C" __global__ void __launch_bounds__(BOUND)
row_statistics(const T *__restrict__ x, W *__restrict__ partial, long long n, long long parts, long long length,
               Ints<8> geometry) {
    __shared__ W held[32];
    Row row(blockIdx.x / parts, n, geometry);
    int offset = int(blockIdx.x % parts * length), count = int(min(n - offset, length));
    int begin = threadIdx.x * VEC, stride = blockDim.x * VEC;
    W value[HELD][VEC], mean = 0, total = 0;
    EACH_HELD(load(x, nullptr, nullptr, row, offset + j, now);)
    EACH_HELD(ELEMENTS(total += term(v);))
    total = block_all(total, Sum(), held);
    if (STATISTIC == 0) {
        mean = total / W(count);
        total = 0;
        EACH_HELD(ELEMENTS(total += (v - mean) * (v - mean);))
        total = block_all(total, Sum(), held);
    }
    if (threadIdx.x == 0) {
        partial[2 * blockIdx.x] = mean;
        partial[2 * blockIdx.x + 1] = total;
    }
}

// Normalises a part of a row by the statistics of all its parts.
extern "C" __global__ void __launch_bounds__(BOUND)
normalize_parts(const T *x, const P *__restrict__ scale, const P *__restrict__ bias, P *y,
                const W *__restrict__ partial, W *__restrict__ means, W *__restrict__ factors, long long n,
                long long parts, long long length, Ints<8> geometry, double epsilon, double beside) {
    __shared__ W held[32];
    long long index = blockIdx.x / parts;
    Row row(index, n, geometry);
    int offset = int(blockIdx.x % parts * length), count = int(min(n - offset, length));
    int begin = threadIdx.x * VEC, stride = blockDim.x * VEC;
    const W *mine = partial + 2 * index * parts;
    W mean = 0, total = 0;
    if (STATISTIC == 0) {
        for (int i = threadIdx.x; i < parts; i += blockDim.x)
            mean += mine[2 * i] * (W(min(length, n - i * length)) / W(n));
        mean = block_all(mean, Sum(), held);
    }
    for (int i = threadIdx.x; i < parts; i += blockDim.x) {
        W off = mine[2 * i] - mean;
        total += mine[2 * i + 1] + (STATISTIC == 0 ? off * off * W(min(length, n - i * length)) : W(0));
    }
    total = block_all(total, Sum(), held);
    W factor = factor_of(total, n, epsilon, beside);
    if (blockIdx.x % parts == 0 && threadIdx.x == 0) {
        if (means) means[index] = mean;
        if (factors) factors[index] = factor;
    }
    W value[HELD][VEC];
    EACH_HELD(load(x, nullptr, nullptr, row, offset + j, now);)
    EACH_HELD(store(y, row, offset + j, now, mean, factor, scale, bias);)
}
