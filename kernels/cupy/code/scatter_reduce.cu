// Scatters that reduce: each thread walks in order along one line, whose places no other line shares.
// T: element type; REDUCE: add, mul, max or min; RANK: axes of the lines; K, INDICES, INDEX: see places.cuh.
// `axes`: sizes, magics, steps in the goal, steps among the tuples, steps among the updates;
// `walk`: length, step among the tuples, step among the updates.
#include "places.cuh"

__device__ __forceinline__ T op_add(T a, T b) { return T(a + b); }
__device__ __forceinline__ T op_mul(T a, T b) { return T(a * b); }
__device__ __forceinline__ T op_max(T a, T b) { return a != a || a >= b ? a : b; }
__device__ __forceinline__ T op_min(T a, T b) { return a != a || a <= b ? a : b; }

extern "C" __global__ void scatter_reduce(
    const T *__restrict__ updates, const INDICES *__restrict__ indices, T *__restrict__ y, long long *fault,
    long long lines, Ints<5 * RANK> axes, Ints<3> walk, Ints<2 * K> tuple, long long lowest) {
    INDEX line = INDEX(first_index());
    if (line >= INDEX(lines)) return;
    T *goal = y + offset_of<RANK, INDEX>(line, axes, 2);
    const INDICES *found = indices + offset_of<RANK, INDEX>(line, axes, 3);
    const T *given = updates + offset_of<RANK, INDEX>(line, axes, 4);
    for (INDEX a = 0; a < INDEX(walk.v[0]); a++) {
        INDEX place = 0;
#pragma unroll
        for (int i = 0; i < K; i++)
            place += checked(found[i], tuple.v[i], lowest, fault) * INDEX(tuple.v[K + i]);
        goal[place] = REDUCE(goal[place], *given);
        found += INDEX(walk.v[1]);
        given += INDEX(walk.v[2]);
    }
}
