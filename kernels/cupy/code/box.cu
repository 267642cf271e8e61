// Copies a box of any strides on both sides; ITEMS: how many units a thread moves.
// UNIT: bytes of an element; RANK: axes; INDEX: type of indices and offsets.
// `axes`: see copies.cuh.
#include "copies.cuh"

typedef UnitOf<UNIT>::type T;

extern "C" __global__ void box(const T *x, T *y, long long total, Ints<4 * RANK> axes) {
    copy_box<T, INDEX, RANK, ITEMS>(x, y, INDEX(blockIdx.x), INDEX(total), axes);
}
