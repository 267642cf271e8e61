// Several boxes in one launch, each copied by blocks of its own as box.cu or dense.cu would.
// PIECES: boxes at most; BOXES, DENSES: the sizes of units that the former and the latter meet, added up;
// ITEMS: units a thread moves of the former, and it stores 16 bytes of the latter; RANK: axes; INDEX: as there.
// `pieces` holds sources, goals, numbers of units, first blocks, and bytes of a unit (negative: as dense.cu),
// PIECES of each; `axes` (see copies.cuh) those of one piece after the other.
#include "copies.cuh"

template <int BYTES>
__device__ __forceinline__ void copy_piece(
    int kind, const void *x, void *y, INDEX block, INDEX total, const Ints<4 * RANK> &axes) {
    typedef typename UnitOf<BYTES>::type T;
    if ((BOXES & BYTES) && kind == BYTES)
        copy_box<T, INDEX, RANK, ITEMS>((const T *)x, (T *)y, block, total, axes);
    if ((DENSES & BYTES) && kind == -BYTES)
        copy_dense<T, INDEX, RANK, 16 / BYTES>((const T *)x, (T *)y, block, total, axes);
}

extern "C" __global__ void joined(
    const __grid_constant__ Ints<5 * PIECES> pieces, const __grid_constant__ Ints<4 * RANK * PIECES> axes) {
    int piece = 0;
#pragma unroll
    for (int i = 1; i < PIECES; i++) piece += (long long)blockIdx.x >= pieces.v[3 * PIECES + i];
    const void *x = (const void *)pieces.v[piece];
    void *y = (void *)pieces.v[PIECES + piece];
    INDEX total = INDEX(pieces.v[2 * PIECES + piece]);
    INDEX block = INDEX(blockIdx.x - pieces.v[3 * PIECES + piece]);
    int kind = int(pieces.v[4 * PIECES + piece]);
    Ints<4 * RANK> mine;
#pragma unroll
    for (int i = 0; i < 4 * RANK; i++) mine.v[i] = axes.v[piece * 4 * RANK + i];
    copy_piece<1>(kind, x, y, block, total, mine);
    copy_piece<2>(kind, x, y, block, total, mine);
    copy_piece<4>(kind, x, y, block, total, mine);
    copy_piece<8>(kind, x, y, block, total, mine);
    copy_piece<16>(kind, x, y, block, total, mine);
}
