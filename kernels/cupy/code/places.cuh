// Where the slices lie that indices mean.
// RANK: axes of the positions; K: indices in a tuple; INDICES: their type; INDEX: type of offsets.
#include "units.cuh"

// An index counted from the front; one out of range is reported and becomes 0.
__device__ __forceinline__ INDEX checked(INDICES found, long long size, long long lowest, long long *fault) {
    long long index = (long long)found;
    if (index < lowest * size || index >= size) {
        *fault = 1;
        index = 0;
    }
    return INDEX(index < 0 ? index + size : index);
}

// Place of slice `k`: its position's own, and a step for each index of its tuple.
// `axes`: sizes, magics, steps of the places, steps of the tuples; `tuple`: sizes, steps.
__device__ __forceinline__ INDEX place_of(
    INDEX k, const INDICES *indices, const Ints<4 * RANK> &axes, const Ints<2 * K> &tuple, long long lowest,
    long long *fault) {
    INDEX place = offset_of<RANK, INDEX>(k, axes, 2);
    const INDICES *found = indices + offset_of<RANK, INDEX>(k, axes, 3);
#pragma unroll
    for (int i = 0; i < K; i++)
        place += checked(found[i], tuple.v[i], lowest, fault) * INDEX(tuple.v[K + i]);
    return place;
}
