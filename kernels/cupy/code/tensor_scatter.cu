// TensorScatter: `steps` rows of an update for each (batch, middle), written from a place in a cache of `size`.
// UNIT: bytes of a unit; INDEX: type of offsets; CIRCULAR: whether places wrap; HAS_PLACES: else they are 0.
// `axes`: batches, middle, steps, units of a row, and their magics.
#include "units.cuh"

typedef UnitOf<UNIT>::type T;

extern "C" __global__ void tensor_scatter(
    const T *__restrict__ update, const long long *__restrict__ places, T *__restrict__ y, long long *fault,
    long long total, long long size, Ints<8> axes) {
    INDEX n = INDEX(first_index());
    if (n >= INDEX(total)) return;
    INDEX rest = quotient(n, axes.v[3], axes.v[7]);
    INDEX column = n - rest * INDEX(axes.v[3]);
    INDEX outer = quotient(rest, axes.v[2], axes.v[6]);
    INDEX step = rest - outer * INDEX(axes.v[2]);
    long long place = HAS_PLACES ? places[quotient(outer, axes.v[1], axes.v[5])] : 0;
    if (CIRCULAR) {
        place = place % size + step;
        place = place < 0 ? place + size : place >= size ? place - size : place;
    } else {
        if (place < 0 || place > size - axes.v[2]) {
            *fault = 1;
            return;
        }
        place += step;
    }
    y[(outer * INDEX(size) + INDEX(place)) * INDEX(axes.v[3]) + column] = update[n];
}
