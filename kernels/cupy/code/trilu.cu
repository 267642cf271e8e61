// Trilu: a triangle of matrices, zero elsewhere.
// UNIT: bytes of an element; VEC: elements for each thread; UPPER: which triangle; INDEX: type of offsets.
// `axes`: rows, columns, and their magics.
#include "units.cuh"

typedef UnitOf<UNIT>::type T;

extern "C" __global__ void trilu(
    const T *__restrict__ x, T *__restrict__ y, long long total, Ints<4> axes, long long diagonal) {
    INDEX first = INDEX(first_index()) * VEC;
    if (first >= INDEX(total)) return;
    INDEX rest = quotient(first, axes.v[1], axes.v[3]);
    INDEX column = first - rest * INDEX(axes.v[1]);
    INDEX row = rest - quotient(rest, axes.v[0], axes.v[2]) * INDEX(axes.v[0]);
    Vec<T, VEC> held;
#pragma unroll
    for (int i = 0; i < VEC; i++) {
        bool kept = UPPER ? column >= row + diagonal : column <= row + diagonal;
        held.v[i] = T();
        if (kept && first + i < INDEX(total)) held.v[i] = x[first + i];
        if (++column == INDEX(axes.v[1])) {
            column = 0;
            if (++row == INDEX(axes.v[0])) row = 0;
        }
    }
    if (first + VEC <= INDEX(total)) {
        *(Vec<T, VEC> *)(y + first) = held;
    } else {
        for (int i = 0; i < VEC; i++)
            if (first + i < INDEX(total)) y[first + i] = held.v[i];
    }
}
