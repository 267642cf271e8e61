// OneHot: (outer, classes, inner), the second of two values where the class is the index.
// UNIT: bytes of a value; INDICES: type of the indices, HAS_FRACTION: whether that is a floating-point one;
// INDEX: type of offsets. `axes`: classes, inner, and their magics; `lowest` is -1 or 0, in classes.
#include "units.cuh"

typedef UnitOf<UNIT>::type T;

extern "C" __global__ void one_hot(
    const INDICES *__restrict__ indices, const T *__restrict__ values, T *__restrict__ y, long long total,
    Ints<4> axes, long long lowest) {
    INDEX n = INDEX(first_index());
    if (n >= INDEX(total)) return;
    INDEX rest = quotient(n, axes.v[1], axes.v[3]);
    INDEX column = n - rest * INDEX(axes.v[1]);
    INDEX outer = quotient(rest, axes.v[0], axes.v[2]);
    long long which = rest - outer * INDEX(axes.v[0]), classes = axes.v[0];
    INDICES found = indices[outer * INDEX(axes.v[1]) + column];
#if HAS_FRACTION
    double whole = trunc(double(widen(found)));
    bool is_on = whole == double(which) || (lowest < 0 && whole == double(which - classes));
#else
    long long whole = (long long)found;
    bool is_on = whole == which || (lowest < 0 && whole == which - classes);
#endif
    y[n] = values[is_on];
}
