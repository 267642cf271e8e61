// Gather, GatherElements, GatherND: slices of `row` (size, magic) units, read at places given by indices.
// UNIT: bytes of a unit; ITEMS: units for each thread; RANK, K, INDICES, INDEX: see places.cuh.
#include "places.cuh"

typedef UnitOf<UNIT>::type T;

extern "C" __global__ void gather(
    const T *__restrict__ x, const INDICES *__restrict__ indices, T *__restrict__ y, long long *fault,
    long long total, Ints<2> row, Ints<4 * RANK> axes, Ints<2 * K> tuple, long long lowest) {
    INDEX first = INDEX(blockIdx.x) * INDEX(blockDim.x * ITEMS) + INDEX(threadIdx.x);
    T held[ITEMS];
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        INDEX n = first + INDEX(i * blockDim.x);
        if (n < INDEX(total)) {
            INDEX k = quotient(n, row.v[0], row.v[1]);
            held[i] = x[place_of(k, indices, axes, tuple, lowest, fault) + (n - k * INDEX(row.v[0]))];
        }
    }
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        INDEX n = first + INDEX(i * blockDim.x);
        if (n < INDEX(total)) y[n] = held[i];
    }
}
