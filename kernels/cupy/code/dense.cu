// Copies a box of any strides to a dense goal; VEC: how many units a thread stores at once.
// UNIT: bytes of an element; RANK: axes; INDEX: type of indices and offsets.
// `axes`: see copies.cuh.
#include "copies.cuh"

typedef UnitOf<UNIT>::type T;

extern "C" __global__ void dense(const T *__restrict__ x, T *__restrict__ y, long long total, Ints<4 * RANK> axes) {
    copy_dense<T, INDEX, RANK, VEC>(x, y, INDEX(blockIdx.x), INDEX(total), axes);
}
