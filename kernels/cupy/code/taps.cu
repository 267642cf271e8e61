// Resizing by weighted sums: each output is a sum over the taps of up to three axes.
// T: element type; W: type to sum in; RANK: axes; MASK: bit d where axis d is resized; AXES: how many are;
// VEC: elements of the last axis, not resized then, for each thread; ITEMS: indices of the first axis, not
// resized then, for each thread; COUNT_0, COUNT_1, COUNT_2: taps of each resized axis, 0: known at run time only;
// IS_INTEGER: whether results are rounded and saturate (LOW, HIGH); INDEX: type of offsets.
// `axes`: sizes (the first in groups of ITEMS), magics, strides; `first`: size and stride of the first axis, and
// elements of the goal behind one of its indices; `taps`: for each resized axis their number, and where its
// tables begin: offsets and weights (size, taps); the first offset of a place outside of everything is -1,
// and gives `fill`.
#include "units.cuh"

struct Sums { W v[ITEMS * VEC]; };

// Sums over the taps of the axes from A on. A weight of zero contributes nothing, even where the value is
// infinite: nothing is read then.
template <int A> struct TapsOf {
    __device__ __forceinline__ static Sums sum(
        const T *x, bool used, INDEX items, INDEX stride, const int *offsets, const W *weights, const INDEX *at,
        const Ints<2 * AXES> &taps) {
        Sums total;
#pragma unroll
        for (int i = 0; i < ITEMS * VEC; i++) total.v[i] = 0;
        const int known = A == 0 ? COUNT_0 : A == 1 ? COUNT_1 : COUNT_2;
        const int count = known ? known : int(taps.v[2 * A]);
        INDEX first = INDEX(taps.v[2 * A + 1]) + at[A] * count;
#pragma unroll
        for (int k = 0; k < count; k++) {
            W weight = weights[first + k];
            Sums found = TapsOf<A + 1>::sum(
                x + offsets[first + k], used && weight != 0, items, stride, offsets, weights, at, taps);
#pragma unroll
            for (int i = 0; i < ITEMS * VEC; i++) total.v[i] += weight * found.v[i];
        }
        return total;
    }
};
template <> struct TapsOf<AXES> {
    __device__ __forceinline__ static Sums sum(
        const T *x, bool used, INDEX items, INDEX stride, const int *, const W *, const INDEX *,
        const Ints<2 * AXES> &) {
        Sums values;
#pragma unroll
        for (int item = 0; item < ITEMS; item++) {
            Vec<T, VEC> held = {};
            if (used && item < items) held = *(const Vec<T, VEC> *)(x + item * stride);
#pragma unroll
            for (int i = 0; i < VEC; i++) values.v[item * VEC + i] = W(widen(held.v[i]));
        }
        return values;
    }
};

__device__ __forceinline__ T finished(W value) {
#if IS_INTEGER
    value = rint(value);
    return value != value ? T(0) : value <= W(LOW) ? T(LOW) : value >= W(HIGH) ? T(HIGH) : T(value);
#else
    return narrow<T>(value);
#endif
}

extern "C" __global__ void taps(
    const T *__restrict__ x, const T *__restrict__ fill, const int *__restrict__ offsets,
    const W *__restrict__ weights, T *__restrict__ y, long long total, Ints<3 * RANK> axes, Ints<3> first,
    Ints<2 * AXES> taps) {
    INDEX n = INDEX(first_index());
    if (n >= INDEX(total)) return;
    INDEX at[AXES], rest = n, base = 0, outermost = 0;
    int axis = AXES;
#pragma unroll
    for (int d = RANK - 1; d >= 0; d--) {
        INDEX above = d ? quotient(rest, axes.v[d], axes.v[RANK + d]) : 0;
        INDEX i = rest - above * INDEX(axes.v[d]);
        if (MASK >> d & 1) at[--axis] = i;
        else if (d) base += i * INDEX(axes.v[2 * RANK + d]);
        else outermost = i;
        rest = above;
    }
    bool outside = false;
#pragma unroll
    for (int a = 0; a < AXES; a++) outside |= offsets[INDEX(taps.v[2 * a + 1]) + at[a] * INDEX(taps.v[2 * a])] < 0;
    // Where the first axis is resized there is but one item, and this is all 0.
    INDEX items = MASK & 1 ? 1 : INDEX(first.v[0]) - outermost * ITEMS, stride = INDEX(first.v[1]);
    Sums found = TapsOf<0>::sum(
        x + base + outermost * ITEMS * stride, !outside, items, stride, offsets, weights, at, taps);
    INDEX goal = (n - outermost * INDEX(first.v[2])) * VEC + outermost * ITEMS * INDEX(first.v[2]) * VEC;
    T filled = *fill;
#pragma unroll
    for (int item = 0; item < ITEMS; item++) {
        Vec<T, VEC> held;
#pragma unroll
        for (int i = 0; i < VEC; i++) held.v[i] = outside ? filled : finished(found.v[item * VEC + i]);
        if (item < items) *(Vec<T, VEC> *)(y + goal + item * INDEX(first.v[2]) * VEC) = held;
    }
}
