// How the generated kernels of elementwise programs walk over their tensors; see kernels/cupy/chain.py.
// INDEX: unsigned type that counts elements. VEC: elements that a thread takes at once. UNROLL: how many times it
// does so before it computes. OUTER: dimensions outside of a row. THREADS: of a block.

#include "elementwise.cuh"

// How far apart a thread's vectors lie, in elements.
#define STEP (INDEX(THREADS) * VEC)

// N elements from `at` on; those behind the last one are zero. WHOLE: there are none.
template <bool WHOLE, int N, class T>
__device__ __forceinline__ void load(T (&held)[N], const T *x, INDEX at, INDEX count) {
    constexpr int PART = N * sizeof(T) > 16 ? 16 / sizeof(T) : N;
    if (WHOLE || at + N <= count) {
        #pragma unroll
        for (int i = 0; i < N; i += PART) {
            Vec<T, PART> part = *reinterpret_cast<const Vec<T, PART> *>(x + at + i);
            #pragma unroll
            for (int j = 0; j < PART; j++) held[i + j] = part.v[j];
        }
    } else {
        #pragma unroll
        for (int i = 0; i < N; i++) held[i] = at + i < count ? x[at + i] : T();
    }
}

template <bool WHOLE, int N, class T>
__device__ __forceinline__ void store(const T (&held)[N], T *y, INDEX at, INDEX count) {
    constexpr int PART = N * sizeof(T) > 16 ? 16 / sizeof(T) : N;
    if (WHOLE || at + N <= count) {
        #pragma unroll
        for (int i = 0; i < N; i += PART) {
            Vec<T, PART> part;
            #pragma unroll
            for (int j = 0; j < PART; j++) part.v[j] = held[i + j];
            *reinterpret_cast<Vec<T, PART> *>(y + at + i) = part;
        }
    } else {
        #pragma unroll
        for (int i = 0; i < N; i++)
            if (at + i < count) y[at + i] = held[i];
    }
}

#if OUTER
// For each dimension but the outermost, from the row on: extent, multiplier, shift.
typedef Ints<3 * OUTER> Dividers;

// The coordinates of element `at`, that within the row first. Counts below 2**31 are divided by a multiplication
// (Granlund and Montgomery, "Division by invariant integers using multiplication").
__device__ __forceinline__ void locate(INDEX at, const Dividers &by, INDEX (&place)[OUTER + 1]) {
    #pragma unroll
    for (int i = 0; i < OUTER; i++) {
        INDEX extent = INDEX(by.v[3 * i]), next;
        if (sizeof(INDEX) == 4)
            next = (INDEX(uint64_t(at) * uint32_t(by.v[3 * i + 1]) >> 32) + at) >> int(by.v[3 * i + 2]);
        else
            next = at / extent;
        place[i] = at - next * extent;
        at = next;
    }
    place[OUTER] = at;
}

// Where an operand has the element at a place; strides go in elements, that within the row first.
typedef Ints<OUTER + 1> Strides;
__device__ __forceinline__ INDEX offset_of(const INDEX (&place)[OUTER + 1], const Strides &strides) {
    INDEX offset = 0;
    #pragma unroll
    for (int i = 0; i <= OUTER; i++) offset += place[i] * INDEX(strides.v[i]);
    return offset;
}
#endif
