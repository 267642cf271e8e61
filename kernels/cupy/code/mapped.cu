// A goal whose axes read the source by tables: borders, and resizing to the nearest.
// UNIT: bytes of an element; RATIO: elements that are moved at once; VEC: of those, how many a thread stores
// at once; RANK: axes; INDEX: type of offsets.
// `gap`: elements of RATIO between the goal's lines, along its last axis; it is dense otherwise.
// `axes`: sizes, magics, strides, begins of tables: an axis with a table reads at table[begin + i], or nothing
// (-1: the goal is `fill`), one without (begin -1) at i * stride.
#include "units.cuh"

typedef UnitOf<UNIT>::type E;
typedef Vec<E, RATIO> T;

__device__ __forceinline__ INDEX on_axis(INDEX i, int d, const int *tables, const Ints<4 * RANK> &axes, bool &outside) {
    if (axes.v[3 * RANK + d] < 0) return i * INDEX(axes.v[2 * RANK + d]);
    int place = tables[INDEX(axes.v[3 * RANK + d]) + i];
    outside |= place < 0;
    return INDEX(place);
}

// Offset of all axes but the last, given their flat index.
__device__ __forceinline__ INDEX before(INDEX n, const int *tables, const Ints<4 * RANK> &axes, bool &outside) {
    INDEX offset = 0;
    outside = false;
#pragma unroll
    for (int d = RANK - 2; d > 0; d--) {
        INDEX rest = quotient(n, axes.v[d], axes.v[RANK + d]);
        offset += on_axis(n - rest * INDEX(axes.v[d]), d, tables, axes, outside);
        n = rest;
    }
    return RANK > 1 ? offset + on_axis(n, 0, tables, axes, outside) : 0;
}

extern "C" __global__ void mapped(
    const T *__restrict__ x, const E *__restrict__ fill, const int *__restrict__ tables, T *__restrict__ y,
    long long total, long long gap, Ints<4 * RANK> axes) {
    INDEX first = INDEX(first_index()) * VEC;
    if (first >= INDEX(total)) return;
    const INDEX last_size = INDEX(axes.v[RANK - 1]);
    T filled;
#pragma unroll
    for (int i = 0; i < RATIO; i++) filled.v[i] = *fill;
    INDEX line = RANK > 1 ? quotient(first, axes.v[RANK - 1], axes.v[2 * RANK - 1]) : 0;
    INDEX at = first - line * last_size;
    y += line * gap;  // where there are gaps, no thread has elements of two lines
    bool line_outside;
    INDEX base = before(line, tables, axes, line_outside);
    Vec<T, VEC> held;
    if (at + VEC <= last_size) {  // all in one line
#pragma unroll
        for (int i = 0; i < VEC; i++) {
            bool outside = line_outside;
            INDEX place = on_axis(at + i, RANK - 1, tables, axes, outside);
            held.v[i] = filled;
            if (!outside) held.v[i] = x[base + place];
        }
    } else {
#pragma unroll
        for (int i = 0; i < VEC; i++) {
            held.v[i] = filled;
            bool outside = line_outside || first + i >= INDEX(total);
            INDEX place = outside ? INDEX(0) : on_axis(at, RANK - 1, tables, axes, outside);
            if (!outside) held.v[i] = x[base + place];
            if (i + 1 < VEC && ++at == last_size) {
                at = 0;
                if (first + i + 1 < INDEX(total)) base = before(++line, tables, axes, line_outside);
            }
        }
    }
    if (first + VEC <= INDEX(total)) {
        *(Vec<T, VEC> *)(y + first) = held;
    } else {
#pragma unroll
        for (int i = 0; i < VEC; i++)
            if (first + i < INDEX(total)) y[first + i] = held.v[i];
    }
}
