// Look-ups of numbers among ascending keys, NaN last. KEY: type of the keys; at least one key.

__device__ __forceinline__ int place_of(const KEY *keys, int count, KEY x) {
    int base = 0;
    if (x != x) {
        KEY last = keys[count - 1];
        return last != last ? count - 1 : -1;
    }
    for (int left = count; left > 1; left -= left / 2) {
        int half = left / 2;
        if (keys[base + half] <= x) base += half;
    }
    return keys[base] == x ? base : -1;
}

#ifdef UNIT
#include "units.cuh"

// LabelEncoder; values of UNIT bytes are only moved, and the default lies behind them.
extern "C" __global__ void look_up(const KEY *__restrict__ x, UnitOf<UNIT>::type *__restrict__ y, long long total,
                                   const KEY *__restrict__ keys, long long count,
                                   const UnitOf<UNIT>::type *__restrict__ values) {
    for (long long i = first_index(); i < total; i += index_step()) {
        int place = place_of(keys, int(count), x[i]);
        y[i] = values[place < 0 ? count : place];
    }
}
#else

// OneHotEncoder: the column of each element, -1 for none; numbers are cut to integers.
extern "C" __global__ void category(const T *__restrict__ x, int *__restrict__ column, long long total,
                                    const KEY *__restrict__ keys, const int *__restrict__ columns, long long count) {
    for (long long i = first_index(); i < total; i += index_step()) {
        T value = x[i];
        bool is_whole = T(0.5) == T(0) || (value > T(-9223372036854775808.0) && value < T(9223372036854775808.0));
        int place = is_whole ? place_of(keys, int(count), KEY(value)) : -1;
        column[i] = place < 0 ? -1 : columns[place];
    }
}

extern "C" __global__ void one_hot_row(const int *__restrict__ column, float *__restrict__ y, long long total,
                                       long long width) {
    for (long long i = first_index(); i < total; i += index_step()) {
        long long element = i / width;
        y[i] = column[element] == int(i - element * width) ? 1.0f : 0.0f;
    }
}
#endif
