// Copies a box whose innermost axes change places; TILE: extent of a tile, PACK: units in an access.
// UNIT: bytes of an element; RANK: axes; INDEX: type of indices and offsets.
// `axes` holds sizes, magics (see units.cuh), strides of the source, strides of the goal.
#include "units.cuh"

typedef UnitOf<UNIT>::type T;

// Two axes change places: `along` has stride 1 in the source, `across` in the goal. Tiles of TILE by TILE
// pass through shared memory, in accesses of PACK units; 32 by 8 threads.
// `axes` are the others (sizes, magics, source, goal), RANK of them; `plane` is (along, across: their sizes,
// tiles of both, magics of the tiles, stride of across in the source, of along in the goal).
extern "C" __global__ void transpose(const T *__restrict__ x, T *__restrict__ y, Ints<4 * RANK> axes, Ints<8> plane) {
    __shared__ T tile[TILE][TILE + 1];
    typedef Vec<T, PACK> Packed;
    INDEX block = INDEX(blockIdx.x);
    INDEX rest = quotient(block, plane.v[2], plane.v[4]);
    INDEX along = (block - rest * INDEX(plane.v[2])) * TILE;
    INDEX outer = quotient(rest, plane.v[3], plane.v[5]);
    INDEX across = (rest - outer * INDEX(plane.v[3])) * TILE;
    x += offset_of<RANK, INDEX>(outer, axes, 2);
    y += offset_of<RANK, INDEX>(outer, axes, 3);
    const INDEX longs = INDEX(plane.v[0]), crosses = INDEX(plane.v[1]);
    int column = threadIdx.x * PACK;
    if (along + column < longs) {
#pragma unroll
        for (int row = threadIdx.y; row < TILE; row += 8) {
            if (across + row < crosses) {
                Packed held = *(const Packed *)(x + (across + row) * INDEX(plane.v[6]) + along + column);
#pragma unroll
                for (int i = 0; i < PACK; i++) tile[row][column + i] = held.v[i];
            }
        }
    }
    __syncthreads();
    if (across + column < crosses) {
#pragma unroll
        for (int row = threadIdx.y; row < TILE; row += 8) {
            if (along + row < longs) {
                Packed held;
#pragma unroll
                for (int i = 0; i < PACK; i++) held.v[i] = tile[column + i][row];
                *(Packed *)(y + (along + row) * INDEX(plane.v[7]) + across + column) = held;
            }
        }
    }
}
