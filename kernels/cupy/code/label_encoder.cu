// LabelEncoder. KEY: type of the keys; values of UNIT bytes are only moved, and the default lies behind them.
#include "key_search.cuh"
#include "units.cuh"

extern "C" __global__ void look_up(const KEY *__restrict__ x, UnitOf<UNIT>::type *__restrict__ y, long long total,
                                   const KEY *__restrict__ keys, long long count,
                                   const UnitOf<UNIT>::type *__restrict__ values) {
    for (long long i = first_index(); i < total; i += index_step()) {
        int place = place_of(keys, int(count), x[i]);
        y[i] = values[place < 0 ? count : place];
    }
}
