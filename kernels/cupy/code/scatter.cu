// ScatterElements, ScatterND: slices of `row` (size, magic) units, written at places given by indices, counted
// in slices. Where some meet, the last one counts: each claims its place with its number, the largest wins.
// UNIT: bytes of a unit; RANK, K, INDICES, INDEX: see places.cuh.
#include "places.cuh"

typedef UnitOf<UNIT>::type T;

// Nobody has claimed the places that are meant.
extern "C" __global__ void unclaim(
    const INDICES *__restrict__ indices, int *__restrict__ claims, long long *fault, long long count,
    Ints<4 * RANK> axes, Ints<2 * K> tuple, long long lowest) {
    INDEX k = INDEX(first_index());
    if (k < INDEX(count)) claims[place_of(k, indices, axes, tuple, lowest, fault)] = -1;
}

extern "C" __global__ void claim(
    const INDICES *__restrict__ indices, int *__restrict__ claims, long long *fault, long long count,
    Ints<4 * RANK> axes, Ints<2 * K> tuple, long long lowest) {
    INDEX k = INDEX(first_index());
    if (k < INDEX(count)) atomicMax(claims + place_of(k, indices, axes, tuple, lowest, fault), int(k));
}

// Writes the slices that have won their place.
extern "C" __global__ void put_claimed(
    const T *__restrict__ updates, const INDICES *__restrict__ indices, const int *__restrict__ claims,
    T *__restrict__ y, long long *fault, long long total, Ints<2> row, Ints<4 * RANK> axes, Ints<2 * K> tuple,
    long long lowest) {
    INDEX n = INDEX(first_index());
    if (n >= INDEX(total)) return;
    INDEX k = quotient(n, row.v[0], row.v[1]);
    INDEX place = place_of(k, indices, axes, tuple, lowest, fault);
    if (claims[place] == int(k)) y[place * INDEX(row.v[0]) + (n - k * INDEX(row.v[0]))] = updates[n];
}

// Writes the slices that no later one of the first `scanned` follows: 0 where no two meet, else all of them.
extern "C" __global__ void put(
    const T *__restrict__ updates, const INDICES *__restrict__ indices, T *__restrict__ y, long long *fault,
    long long total, long long scanned, Ints<2> row, Ints<4 * RANK> axes, Ints<2 * K> tuple, long long lowest) {
    INDEX n = INDEX(first_index());
    if (n >= INDEX(total)) return;
    INDEX k = quotient(n, row.v[0], row.v[1]);
    INDEX place = place_of(k, indices, axes, tuple, lowest, fault);
    for (INDEX later = k + 1; later < INDEX(scanned); later++)
        if (place_of(later, indices, axes, tuple, lowest, fault) == place) return;
    y[place * INDEX(row.v[0]) + (n - k * INDEX(row.v[0]))] = updates[n];
}
