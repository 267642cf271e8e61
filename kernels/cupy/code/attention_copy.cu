// Rows (batch, heads, length, size) that lie anywhere go anywhere else, behind those of a cache if there is one.
// UNIT: bytes of an access; sizes and steps count those. INDEX: unsigned type that counts them.
#include "units.cuh"

typedef UnitOf<UNIT>::type Unit;

// sizes: heads, cached rows, new rows, accesses of a row. Steps between batches, heads, rows.
extern "C" __global__ void __launch_bounds__(256)
place_rows(const Unit *__restrict__ past, const Unit *__restrict__ added, Unit *__restrict__ goal, Ints<4> sizes,
           Ints<3> from, Ints<3> to, long long count) {
    long long first = first_index();
    if (first >= count) return;
    INDEX at = INDEX(first), width = INDEX(sizes.v[3]), cached = INDEX(sizes.v[1]), rows = cached + INDEX(sizes.v[2]);
    INDEX line = at / width, element = at - line * width;
    INDEX unit = line / rows, row = line - unit * rows;
    INDEX batch = unit / INDEX(sizes.v[0]), head = unit - batch * INDEX(sizes.v[0]);
    goal[batch * to.v[0] + head * to.v[1] + row * to.v[2] + element] = row < cached
        ? past[(unit * (long long)cached + row) * width + element]
        : added[batch * from.v[0] + head * from.v[1] + (row - cached) * from.v[2] + element];
}
