// Cumulative sums and products along the middle axis of (outer, n, inner).
// T: element type; A: what is accumulated in; COMBINE, FIRST: the operation and what it starts from; IDENTITY:
// what no elements give; EXCLUSIVE: of the elements before; REVERSE: from the end. VEC: elements of one access.
#include "row_groups.cuh"

typedef Vec<T, VEC> Pack;

// Place p in the order of summation is element p, or from the end.
__device__ __forceinline__ Pack load(const T *row, long long n, long long p) {
    if (!REVERSE) return *(const Pack *)(row + p);
    Pack given = *(const Pack *)(row + n - p - VEC), turned;
#pragma unroll
    for (int e = 0; e < VEC; e++) turned.v[e] = given.v[VEC - 1 - e];
    return turned;
}

__device__ __forceinline__ void store(T *row, long long n, long long p, Pack made) {
    if (!REVERSE) {
        *(Pack *)(row + p) = made;
        return;
    }
    Pack turned;
#pragma unroll
    for (int e = 0; e < VEC; e++) turned.v[e] = made.v[VEC - 1 - e];
    *(Pack *)(row + n - p - VEC) = turned;
}

// What the threads before this one in its group have; `whole` becomes what all have. `held`: one per warp.
__device__ __forceinline__ A before_me(A mine, A &whole, A *held) {
    const int lanes = GROUP ? GROUP : WARP;
    int lane = threadIdx.x % lanes;
    A all = mine;
#pragma unroll
    for (int offset = 1; offset < lanes; offset *= 2) {
        A other = __shfl_up_sync(FULL_WARP, all, offset, lanes);
        if (lane >= offset) all = COMBINE()(other, all);
    }
    A previous = __shfl_up_sync(FULL_WARP, all, 1, lanes);
    A before = lane ? previous : A(FIRST);
    if (GROUP) {
        whole = __shfl_sync(FULL_WARP, all, lanes - 1, lanes);
        return before;
    }
    if (lane == WARP - 1) held[threadIdx.x / WARP] = all;
    __syncthreads();
    whole = A(FIRST);
    for (int i = 0; i < int(blockDim.x / WARP); i++) {
        if (i == int(threadIdx.x / WARP)) before = COMBINE()(whole, before);
        whole = COMBINE()(whole, held[i]);
    }
    __syncthreads();
    return before;
}

// A block's part of a row, combined.
extern "C" __global__ void part_totals(const T *__restrict__ x, A *__restrict__ totals, long long n,
                                       long long parts, long long length) {
    __shared__ A held[32];
    const T *row = x + blockIdx.x / parts * n;
    long long begin = blockIdx.x % parts * length, end = min(begin + length, n);
    A total = A(FIRST);
#pragma unroll 4
    for (long long p = begin + threadIdx.x * VEC; p < end; p += blockDim.x * VEC) {
        Pack given = load(row, n, p);
#pragma unroll
        for (int e = 0; e < VEC; e++) total = COMBINE()(total, A(widen(given.v[e])));
    }
    total = block_all(total, COMBINE(), held);
    if (threadIdx.x == 0) totals[blockIdx.x] = total;
}

// A group of threads has a row, or a block has a part of one behind parts of known totals.
extern "C" __global__ void scan_rows(const T *x, T *y, const A *__restrict__ totals, long long rows,
                                     long long n, long long parts, long long length) {
    __shared__ A held[32];
    long long unit = group_row(), index = quotient(unit, parts), part = unit - index * parts;
    int thread = group_thread(), threads = group_threads();
    long long begin = part * length, end = index < rows ? min(begin + length, n) : begin;
    const T *source = x + index * n;
    T *goal = y + index * n;
    A carry = A(FIRST);
    if (!GROUP && totals) {
        for (int i = thread; i < part; i += threads) carry = COMBINE()(carry, totals[index * parts + i]);
        carry = block_all(carry, COMBINE(), held);
    }
    // All lanes of a warp go on as long as the longest part does.
    for (long long tile = begin; tile < begin + length; tile += threads * VEC) {
        long long p = tile + thread * VEC;
        Pack given, made;
        A mine = A(FIRST), whole;
        if (p < end) given = load(source, n, p);
#pragma unroll
        for (int e = 0; e < VEC; e++)
            if (p < end) mine = COMBINE()(mine, A(widen(given.v[e])));
        A running = before_me(mine, whole, held);
        running = COMBINE()(carry, running);
        carry = COMBINE()(carry, whole);
        if (p >= end) continue;
#pragma unroll
        for (int e = 0; e < VEC; e++) {
            A next = COMBINE()(running, A(widen(given.v[e])));
            made.v[e] = narrow<T>(EXCLUSIVE ? (p + e ? running : A(IDENTITY)) : next);
            running = next;
        }
        store(goal, n, p, made);
    }
}

// A thread has VEC neighbouring columns; the threads along y have a stretch of the axis each.
extern "C" __global__ void scan_columns(const T *x, T *y, long long outer, long long n, long long inner,
                                        long long stretch) {
    extern __shared__ __align__(16) unsigned char memory[];
    A *held = (A *)memory;
    long long at = first_index(), columns = inner / VEC;
    long long row = quotient(at, columns), first = row * n * inner + (at - row * columns) * VEC;
    long long begin = min((long long)threadIdx.y * stretch, n), end = min(begin + stretch, n);
    if (row >= outer) end = begin;
    A running[VEC];
#pragma unroll
    for (int e = 0; e < VEC; e++) running[e] = A(FIRST);
    if (blockDim.y > 1) {
#pragma unroll 4
        for (long long p = begin; p < end; p++) {
            Pack given = *(const Pack *)(x + first + (REVERSE ? n - 1 - p : p) * inner);
#pragma unroll
            for (int e = 0; e < VEC; e++) running[e] = COMBINE()(running[e], A(widen(given.v[e])));
        }
#pragma unroll
        for (int e = 0; e < VEC; e++) {
            held[(threadIdx.y * VEC + e) * blockDim.x + threadIdx.x] = running[e];
            running[e] = A(FIRST);
        }
        __syncthreads();
        for (int i = 0; i < int(threadIdx.y); i++)
#pragma unroll
            for (int e = 0; e < VEC; e++)
                running[e] = COMBINE()(running[e], held[(i * VEC + e) * blockDim.x + threadIdx.x]);
    }
#pragma unroll 4
    for (long long p = begin; p < end; p++) {
        long long place = first + (REVERSE ? n - 1 - p : p) * inner;
        Pack given = *(const Pack *)(x + place), made;
#pragma unroll
        for (int e = 0; e < VEC; e++) {
            A next = COMBINE()(running[e], A(widen(given.v[e])));
            made.v[e] = narrow<T>(EXCLUSIVE ? (p ? running[e] : A(IDENTITY)) : next);
            running[e] = next;
        }
        *(Pack *)(y + place) = made;
    }
}
