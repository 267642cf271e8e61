// ReverseSequence: the first `lengths[b]` steps of each batch entry b backwards.
// UNIT: bytes of a unit; TIME_FIRST: whether time is the first axis; INDEX: type of offsets.
// `axes`: both first axes, units of a row, and their magics.
#include "units.cuh"

typedef UnitOf<UNIT>::type T;

extern "C" __global__ void reverse_sequence(
    const T *__restrict__ x, const long long *__restrict__ lengths, T *__restrict__ y, long long *fault,
    long long total, Ints<6> axes) {
    INDEX n = INDEX(first_index());
    if (n >= INDEX(total)) return;
    INDEX rest = quotient(n, axes.v[2], axes.v[5]);
    INDEX first = quotient(rest, axes.v[1], axes.v[4]);
    INDEX second = rest - first * INDEX(axes.v[1]);
    INDEX time = TIME_FIRST ? first : second, batch = TIME_FIRST ? second : first;
    long long length = lengths[batch];
    if (length < 0 || length > axes.v[TIME_FIRST ? 0 : 1]) {
        *fault = 1;
        length = 0;
    }
    INDEX source = time < length ? INDEX(length) - 1 - time : time;
    INDEX step = INDEX(axes.v[2]) * (TIME_FIRST ? INDEX(axes.v[1]) : 1);
    y[n] = x[n + (source - time) * step];
}
