// Copies a box of any strides to a dense goal; VEC: how many units a thread stores at once.
// UNIT: bytes of an element; RANK: axes; INDEX: type of indices and offsets.
// `axes` holds sizes, magics (see units.cuh), strides of the source, strides of the goal.
#include "units.cuh"

typedef UnitOf<UNIT>::type T;

// A dense goal: VEC neighbouring units for each thread, stored at once.
extern "C" __global__ void dense(const T *__restrict__ x, T *__restrict__ y, long long total, Ints<4 * RANK> axes) {
    INDEX first = (INDEX(blockIdx.x) * INDEX(blockDim.x) + INDEX(threadIdx.x)) * VEC;
    if (first >= INDEX(total)) return;
    const INDEX last_size = INDEX(axes.v[RANK - 1]), last_stride = INDEX(axes.v[3 * RANK - 1]);
    INDEX from = offset_of<RANK, INDEX>(first, axes, 2);
#if RANK > 1
    INDEX left = last_size - (first - quotient(first, axes.v[RANK - 1], axes.v[2 * RANK - 1]) * last_size);
#else
    INDEX left = INDEX(total) - first;
#endif
    if (left >= VEC) {  // all in one line
        Vec<T, VEC> held;
#pragma unroll
        for (int i = 0; i < VEC; i++) held.v[i] = x[from + i * last_stride];
        *(Vec<T, VEC> *)(y + first) = held;
    } else if (first + VEC <= INDEX(total)) {
        Vec<T, VEC> held;
#pragma unroll
        for (int i = 0; i < VEC; i++) held.v[i] = x[offset_of<RANK, INDEX>(first + i, axes, 2)];
        *(Vec<T, VEC> *)(y + first) = held;
    } else {
        for (INDEX n = first; n < INDEX(total); n++) y[n] = x[offset_of<RANK, INDEX>(n, axes, 2)];
    }
}
