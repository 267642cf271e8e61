// Softmax along the middle axis of (outer, n, inner).
// T: element type; IS_LOG: log of the softmax; VEC: elements of one access.
// softmax_rows holds a row in the registers of a group of threads: ITEMS accesses each, blocks of at most
// BOUND threads. softmax_parts and softmax_apply read rows twice that no block can hold.
#include "row_groups.cuh"
#include "online.cuh"

typedef Wide<T>::type W;
typedef Vec<T, VEC> Pack;

// exp(value), value <= 0: for 16-bit types by the card's exp2, whose error they do not show.
__device__ __forceinline__ W power(W value) {
#if IS_LOG
    return exponential(value);
#else
    return sizeof(T) == 2 ? W(__expf(float(value))) : exponential(value);
#endif
}

struct Larger { __device__ __forceinline__ W operator()(W a, W b) const { return larger(a, b); } };

// What `softened` needs of a row: 1 / sum, or log(sum). An infinite maximum makes all of a row NaN.
__device__ __forceinline__ W scale_of(W largest, W sum) {
    if (largest == W(INFINITY)) sum = W(NAN);
    return IS_LOG ? W(log(sum)) : W(1) / sum;
}

extern "C" __global__ void __launch_bounds__(BOUND)
softmax_rows(const T *__restrict__ x, T *__restrict__ y, long long rows, long long n) {
    __shared__ W held[32];
    long long row = group_row();
    int thread = group_thread(), threads = group_threads(), vectors = row < rows ? int(n / VEC) : 0;
    const Pack *source = (const Pack *)(x + row * n);
    Pack *goal = (Pack *)(y + row * n);
    W values[ITEMS][VEC];
    W largest = W(-INFINITY), sum = 0;
#pragma unroll
    for (int k = 0; k < ITEMS; k++) {
        int i = k * threads + thread;
        if (i >= vectors) continue;
        Pack given = source[i];
#pragma unroll
        for (int e = 0; e < VEC; e++) {
            values[k][e] = widen(given.v[e]);
        }
    }
    // NaN shows in the sum; the maximum may pass over it.
#pragma unroll
    for (int k = 0; k < ITEMS; k++)
        if (k * threads + thread < vectors)
#pragma unroll
            for (int e = 0; e < VEC; e++) largest = larger(largest, values[k][e]);
    largest = group_all(largest, Larger(), held);
#pragma unroll
    for (int k = 0; k < ITEMS; k++)
        if (k * threads + thread < vectors)
#pragma unroll
            for (int e = 0; e < VEC; e++) {
                W shifted = values[k][e] - largest, made = power(shifted);
                sum += made;
                values[k][e] = IS_LOG ? shifted : made;
            }
    sum = group_all(sum, Sum(), held);
    W scale = scale_of(largest, sum);
#pragma unroll
    for (int k = 0; k < ITEMS; k++) {
        int i = k * threads + thread;
        if (i >= vectors) continue;
        Pack made;
#pragma unroll
        for (int e = 0; e < VEC; e++)
            made.v[e] = narrow<T>(IS_LOG ? values[k][e] - scale : values[k][e] * scale);
        goal[i] = made;
    }
}

// Adds an element.
__device__ __forceinline__ void take(Exponentials<W> &p, W value) {
    bool is_higher = value > p.largest;
    W factor = value == p.largest ? W(1) : exponential(is_higher ? p.largest - value : value - p.largest);
    p.sum = is_higher ? p.sum * factor + W(1) : p.sum + factor;
    if (is_higher) p.largest = value;
}

// Every thread of a block gets what all have; `held` has a place per warp.
__device__ __forceinline__ Exponentials<W> block_joined(Exponentials<W> p, Exponentials<W> *held) {
    for (int offset = WARP / 2; offset; offset >>= 1) p = joined(p, shuffled(p, offset));
    if (threadIdx.x % WARP == 0) held[threadIdx.x / WARP] = p;
    __syncthreads();
    p = held[0];
    for (int i = 1; i < int(blockDim.x / WARP); i++) p = joined(p, held[i]);
    __syncthreads();
    return p;
}

// A block has a part of a row, of `length` elements.
extern "C" __global__ void softmax_parts(const T *__restrict__ x, W *__restrict__ partial, long long n,
                                         long long parts, long long length) {
    __shared__ Exponentials<W> held[32];
    long long row = blockIdx.x / parts, begin = blockIdx.x % parts * length;
    int vectors = int(min(length, n - begin) / VEC), threads = blockDim.x;
    const Pack *source = (const Pack *)(x + row * n + begin);
    Exponentials<W> total = {W(-INFINITY), W(0)};
    for (int i = threadIdx.x; i < vectors; i += 4 * threads) {
        Pack given[4];
        // The maximum first, so that one exponential an element is enough.
        W largest = total.largest;
#pragma unroll
        for (int u = 0; u < 4; u++)
            if (i + u * threads < vectors) given[u] = source[i + u * threads];
#pragma unroll
        for (int u = 0; u < 4; u++)
            if (i + u * threads < vectors)
#pragma unroll
                for (int e = 0; e < VEC; e++) largest = larger(largest, widen(given[u].v[e]));
        if (largest > total.largest) {
            total.sum = total.sum * exponential(total.largest - largest);
            total.largest = largest;
        }
        // Where all so far is -inf, its terms are the zeros that they will be beside any other maximum.
        W shift = largest == W(-INFINITY) ? W(0) : largest;
#pragma unroll
        for (int u = 0; u < 4; u++)
            if (i + u * threads < vectors)
#pragma unroll
                for (int e = 0; e < VEC; e++) total.sum += power(W(widen(given[u].v[e])) - shift);
    }
    total = block_joined(total, held);
    if (threadIdx.x == 0) {
        partial[2 * blockIdx.x] = total.largest;
        partial[2 * blockIdx.x + 1] = total.sum;
    }
}

extern "C" __global__ void softmax_apply(const T *__restrict__ x, T *__restrict__ y,
                                         const W *__restrict__ partial, long long n, long long parts,
                                         long long length) {
    __shared__ Exponentials<W> held[32];
    long long row = blockIdx.x / parts, begin = blockIdx.x % parts * length;
    int vectors = int(min(length, n - begin) / VEC), threads = blockDim.x;
    Exponentials<W> total = {W(-INFINITY), W(0)};
    for (int i = threadIdx.x; i < parts; i += threads) {
        const W *one = partial + 2 * (row * parts + i);
        total = joined(total, {one[0], one[1]});
    }
    total = block_joined(total, held);
    W largest = total.largest, scale = scale_of(largest, total.sum);
    const Pack *source = (const Pack *)(x + row * n + begin);
    Pack *goal = (Pack *)(y + row * n + begin);
    for (int i = threadIdx.x; i < vectors; i += 4 * threads) {
        Pack given[4];
#pragma unroll
        for (int u = 0; u < 4; u++)
            if (i + u * threads < vectors) given[u] = source[i + u * threads];
#pragma unroll
        for (int u = 0; u < 4; u++) {
            if (i + u * threads >= vectors) continue;
#pragma unroll
            for (int e = 0; e < VEC; e++) {
                W shifted = W(widen(given[u].v[e])) - largest;
                given[u].v[e] = narrow<T>(IS_LOG ? shifted - scale : power(shifted) * scale);
            }
            goal[i + u * threads] = given[u];
        }
    }
}

// A thread has VEC neighbouring columns; the threads along y share the axis.
extern "C" __global__ void softmax_columns(const T *__restrict__ x, T *__restrict__ y, long long outer,
                                           long long n, long long inner) {
    extern __shared__ __align__(16) unsigned char memory[];
    Exponentials<W> *held = (Exponentials<W> *)memory;
    long long at = first_index(), columns = inner / VEC;
    long long row = quotient(at, columns), first = row * n * inner + (at - row * columns) * VEC;
    int count = row < outer ? int(n) : 0, step = blockDim.y;
    Exponentials<W> total[VEC];
#pragma unroll
    for (int e = 0; e < VEC; e++) total[e] = {W(-INFINITY), W(0)};
#pragma unroll 4
    for (int j = threadIdx.y; j < count; j += step) {
        Pack given = *(const Pack *)(x + first + j * inner);
#pragma unroll
        for (int e = 0; e < VEC; e++) take(total[e], widen(given.v[e]));
    }
#pragma unroll
    for (int e = 0; e < VEC; e++) held[(threadIdx.y * VEC + e) * blockDim.x + threadIdx.x] = total[e];
    __syncthreads();
    W largest[VEC], scale[VEC];
#pragma unroll
    for (int e = 0; e < VEC; e++) {
        Exponentials<W> all = held[e * blockDim.x + threadIdx.x];
        for (int i = 1; i < step; i++) all = joined(all, held[(i * VEC + e) * blockDim.x + threadIdx.x]);
        largest[e] = all.largest;
        scale[e] = scale_of(all.largest, all.sum);
    }
#pragma unroll 4
    for (int j = threadIdx.y; j < count; j += step) {
        Pack given = *(const Pack *)(x + first + j * inner);
#pragma unroll
        for (int e = 0; e < VEC; e++) {
            W shifted = W(widen(given.v[e])) - largest[e];
            given.v[e] = narrow<T>(IS_LOG ? shifted - scale[e] : power(shifted) * scale[e]);
        }
        *(Pack *)(y + first + j * inner) = given;
    }
}

// One at the index of the largest of each row, zero elsewhere.
extern "C" __global__ void hardmax(const int64_t *__restrict__ index, T *__restrict__ y, long long size,
                                   long long n, long long inner) {
    long long at = first_index() * VEC;
    if (at >= size) return;
    long long row = quotient(at, inner), column = at - row * inner, before = quotient(row, n);
    long long place = row - before * n, found = before * inner + column;
    Pack made;
#pragma unroll
    for (int e = 0; e < VEC; e++) {
        // With inner 1 a vector lies along the axis, else across it.
        bool is_largest = inner == 1 ? index[found] == place + e : index[found + e] == place;
        made.v[e] = narrow<T>(is_largest ? W(1) : W(0));
    }
    *(Pack *)(y + at) = made;
}
