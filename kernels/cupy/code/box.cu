// Copies a box of any strides on both sides; ITEMS: how many units a thread moves.
// UNIT: bytes of an element; RANK: axes; INDEX: type of indices and offsets.
// `axes` holds sizes, magics (see units.cuh), strides of the source, strides of the goal.
#include "units.cuh"

typedef UnitOf<UNIT>::type T;

// ITEMS units for each thread, a block's width apart.
extern "C" __global__ void box(const T *x, T *y, long long total, Ints<4 * RANK> axes) {
    if ((const T *)y == x) return;  // a copy onto itself
    INDEX first = INDEX(blockIdx.x) * INDEX(blockDim.x * ITEMS) + INDEX(threadIdx.x);
    T held[ITEMS];
    INDEX goal[ITEMS];
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        INDEX n = first + INDEX(i * blockDim.x);
        goal[i] = INDEX(-1);
        if (n < INDEX(total)) {
            INDEX rest = n, from = 0, to = 0;
#pragma unroll
            for (int d = RANK - 1; d > 0; d--) {
                INDEX above = quotient(rest, axes.v[d], axes.v[RANK + d]);
                INDEX at = rest - above * INDEX(axes.v[d]);
                from += at * INDEX(axes.v[2 * RANK + d]);
                to += at * INDEX(axes.v[3 * RANK + d]);
                rest = above;
            }
            from += rest * INDEX(axes.v[2 * RANK]);
            goal[i] = to + rest * INDEX(axes.v[3 * RANK]);
            held[i] = x[from];
        }
    }
#pragma unroll
    for (int i = 0; i < ITEMS; i++)
        if (goal[i] >= 0) y[goal[i]] = held[i];
}
