// Reductions of the middle axis of (outer, n, inner), in parts of `length` where there are few results.
// T: element type; A: what is accumulated in; Y: the result's type, an integer where IS_INTEGER.
// KIND: 0 TAKE each element and COMBINE; 1 log of the sum of exponentials; 2 index of an extreme
// (GREATEST or least, of equal ones the last if LAST_INDEX). INIT: what nothing reduces to.
// FROM_PARTIAL, TO_PARTIAL: the source, the result are partial results. VEC: elements of one access.
// FINAL, after KIND 0: 0 nothing, 1 mean, 2 square root, 3 logarithm.
#include "row_groups.cuh"
#include "online.cuh"

#define UNROLL 4

struct Identity {
    template <class V> __device__ __forceinline__ V operator()(V v) const { return v; }
};
struct Magnitude {
    // Of -0 it is +0.
    template <class V> __device__ __forceinline__ V operator()(V v) const { return v > 0 ? v : V(0) - v; }
};
struct Square {
    template <class V> __device__ __forceinline__ V operator()(V v) const { return v * v; }
};

#if KIND == 0
struct Partial { A value; };
__device__ __forceinline__ Partial nothing() { return {A(INIT)}; }
__device__ __forceinline__ Partial combined(Partial a, Partial b) { return {COMBINE()(a.value, b.value)}; }
__device__ __forceinline__ Partial taken(Partial p, A value, int) {
    return {COMBINE()(p.value, TAKE()(value))};
}
__device__ __forceinline__ Partial shifted(Partial p, int offset) {
    return {__shfl_xor_sync(FULL_WARP, p.value, offset)};
}
#elif KIND == 1
typedef Exponentials<A> Partial;
__device__ __forceinline__ Partial nothing() { return {A(-INFINITY), A(0)}; }
__device__ __forceinline__ Partial combined(Partial a, Partial b) { return joined(a, b); }
__device__ __forceinline__ Partial taken(Partial p, A value, int) {
    bool is_higher = value > p.largest;
    A factor = value == p.largest ? A(1) : exponential(is_higher ? p.largest - value : value - p.largest);
    return {is_higher ? value : p.largest, is_higher ? p.sum * factor + A(1) : p.sum + factor};
}
__device__ __forceinline__ Partial shifted(Partial p, int offset) { return shuffled(p, offset); }
#else
struct Partial { A value; int index; };  // index -1: nothing yet
__device__ __forceinline__ Partial nothing() { return {A(0), -1}; }
__device__ __forceinline__ Partial combined(Partial a, Partial b) {
    bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    bool wins = !a_nan && (b_nan || (GREATEST ? b.value > a.value : b.value < a.value));
    bool ties = a.value == b.value || (a_nan && b_nan);
    bool is_b = wins || (ties && (LAST_INDEX ? b.index > a.index : b.index < a.index));
    return b.index < 0 || (a.index >= 0 && !is_b) ? a : b;
}
__device__ __forceinline__ Partial taken(Partial p, A value, int index) {
    return combined(p, {value, index});
}
__device__ __forceinline__ Partial shifted(Partial p, int offset) {
    return {__shfl_xor_sync(FULL_WARP, p.value, offset), __shfl_xor_sync(FULL_WARP, p.index, offset)};
}
#endif

#if FROM_PARTIAL
typedef Partial Source;
__device__ __forceinline__ Partial took(Partial p, Source value, int) { return combined(p, value); }
#else
typedef T Source;
__device__ __forceinline__ Partial took(Partial p, Source value, int index) {
    return taken(p, A(widen(value)), index);
}
#endif

#if TO_PARTIAL
typedef Partial Goal;
__device__ __forceinline__ Goal finished(Partial p, long long) { return p; }
#else
typedef Y Goal;

#if IS_INTEGER
// Toward zero; what is out of range saturates, NaN gives 0.
__device__ __forceinline__ Y rounded(double value) {
    if (value != value) return Y(0);
    if (value <= double(LOWEST)) return LOWEST;
    return value >= double(HIGHEST) ? Y(HIGHEST) : Y(value);
}
#else
__device__ __forceinline__ Y rounded(Wide<Y>::type value) { return narrow<Y>(value); }
#endif

__device__ __forceinline__ Goal finished(Partial p, long long count) {
#if KIND == 2
    return p.index;
#elif KIND == 1
    bool is_infinite = p.largest == A(INFINITY) || p.largest == A(-INFINITY);
    return rounded(is_infinite && p.sum == p.sum ? p.largest : p.largest + log(p.sum));
#elif FINAL == 0
    return narrow<Y>(p.value);
#elif FINAL == 1
    return narrow<Y>(p.value / A(IS_INTEGER && count < 1 ? 1 : count));
#elif IS_INTEGER
    // The sum wraps in its own type before the real function is taken.
    double total = double(narrow<Y>(p.value));
    return rounded(FINAL == 2 ? sqrt(total) : log(total));
#else
    return narrow<Y>(FINAL == 2 ? sqrt(p.value) : log(p.value));
#endif
}
#endif

// inner is 1: a group of threads has a part of a row.
extern "C" __global__ void reduce_rows(const Source *__restrict__ x, Goal *__restrict__ y, long long units,
                                       long long n, long long parts, long long length, long long count) {
    __shared__ Partial held[32];
    long long unit = group_row();
    int thread = group_thread(), threads = group_threads(), vectors = 0;
    long long row = quotient(unit, parts), begin = (unit - row * parts) * length;
    if (unit < units) vectors = int(min(length, n - begin) / VEC);
    const Vec<Source, VEC> *source = (const Vec<Source, VEC> *)(x + row * n + begin);
    Partial total[VEC];
#pragma unroll
    for (int e = 0; e < VEC; e++) total[e] = nothing();
    for (int i = thread; i < vectors; i += UNROLL * threads) {
        Vec<Source, VEC> given[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
            if (i + u * threads < vectors) given[u] = source[i + u * threads];
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
            if (i + u * threads < vectors)
#pragma unroll
                for (int e = 0; e < VEC; e++)
                    total[e] = took(total[e], given[u].v[e], int(begin) + (i + u * threads) * VEC + e);
    }
#pragma unroll
    for (int step = VEC / 2; step; step /= 2)
        for (int e = 0; e < step; e++) total[e] = combined(total[e], total[e + step]);
    Partial result = total[0];
#pragma unroll
    for (int offset = (GROUP ? GROUP : WARP) / 2; offset; offset >>= 1)
        result = combined(result, shifted(result, offset));
    if (!GROUP) {
        if (threadIdx.x % WARP == 0) held[threadIdx.x / WARP] = result;
        __syncthreads();
        if (thread == 0)
            for (int i = 1; i < int(blockDim.x / WARP); i++) result = combined(result, held[i]);
    }
    if (thread == 0 && unit < units) y[unit] = finished(result, count);
}

// A thread has VEC neighbouring columns; the threads along y share the rows of a part.
extern "C" __global__ void reduce_columns(const Source *__restrict__ x, Goal *__restrict__ y, long long units,
                                          long long n, long long inner, long long parts, long long length,
                                          long long count) {
    extern __shared__ __align__(16) unsigned char memory[];
    Partial *held = (Partial *)memory;
    long long at = first_index(), columns = inner / VEC;
    long long unit = quotient(at, columns), row = quotient(unit, parts), column = (at - unit * columns) * VEC;
    int begin = int((unit - row * parts) * length), end = 0, step = blockDim.y;
    if (unit < units) end = int(min((long long)begin + length, n));
    const Source *source = x + row * n * inner + column;
    Partial total[VEC];
#pragma unroll
    for (int e = 0; e < VEC; e++) total[e] = nothing();
    for (int j = begin + threadIdx.y; j < end; j += UNROLL * step) {
        Vec<Source, VEC> given[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
            if (j + u * step < end) given[u] = *(const Vec<Source, VEC> *)(source + (j + u * step) * inner);
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
            if (j + u * step < end)
#pragma unroll
                for (int e = 0; e < VEC; e++) total[e] = took(total[e], given[u].v[e], j + u * step);
    }
    if (blockDim.y > 1) {
#pragma unroll
        for (int e = 0; e < VEC; e++)
            held[(threadIdx.y * VEC + e) * blockDim.x + threadIdx.x] = total[e];
        __syncthreads();
        if (threadIdx.y == 0)
            for (int i = 1; i < step; i++)
#pragma unroll
                for (int e = 0; e < VEC; e++)
                    total[e] = combined(total[e], held[(i * VEC + e) * blockDim.x + threadIdx.x]);
    }
    if (threadIdx.y || unit >= units) return;
    Goal *goal = y + unit * inner + column;
#if !TO_PARTIAL
    if (sizeof(Goal) * VEC <= 16) {
        Vec<Goal, sizeof(Goal) * VEC <= 16 ? VEC : 1> made;
#pragma unroll
        for (int e = 0; e < int(sizeof made / sizeof(Goal)); e++) made.v[e] = finished(total[e], count);
        *(decltype(made) *)goal = made;
        return;
    }
#endif
#pragma unroll
    for (int e = 0; e < VEC; e++) goal[e] = finished(total[e], count);
}
