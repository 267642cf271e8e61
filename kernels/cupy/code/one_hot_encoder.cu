// OneHotEncoder. T: type of the input; KEY: of categories; INDEX: of indices.
#include "key_search.cuh"
#include "units.cuh"

// The column of each element, -1 for none; numbers are cut to integers.
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
                                       long long width, long long factor) {
    for (INDEX i = INDEX(first_index()); i < INDEX(total); i += INDEX(index_step())) {
        INDEX element = quotient(i, width, factor);
        y[i] = column[element] == int(i - element * INDEX(width)) ? 1.0f : 0.0f;
    }
}
