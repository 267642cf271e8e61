// Matrices turned over, many at once: (rows, columns) becomes (columns, rows), through shared memory, so that both
// sides are read and written along their rows. Between (N, C, pixels) and (N, pixels, C).
// T: unsigned type of an element's size.

// PACK: elements of one access, 4 bytes where both extents allow. WARPS turn over a tile of SIDE x SIDE.
#define SIDE (32 * PACK)
#define EACH (SIDE / WARPS)

extern "C" __global__ void __launch_bounds__(32 * WARPS)
turned(const T *__restrict__ x, T *__restrict__ y, long long rows, long long columns, long long down, long long across) {
    // The odd length of a row of the tile keeps the banks of a column apart.
    __shared__ T tile[SIDE][SIDE + 1];
    long long block = blockIdx.x;
    long long column = block % across * SIDE;
    block /= across;
    long long row = block % down * SIDE, matrix = block / down * rows * columns;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = lane * PACK;
    Vec<T, PACK> held[EACH];
    #pragma unroll
    for (int k = 0; k < EACH; k++) {
        int i = warp + WARPS * k;
        if (row + i < rows && column + first < columns)
            held[k] = *reinterpret_cast<const Vec<T, PACK> *>(x + matrix + (row + i) * columns + column + first);
    }
    #pragma unroll
    for (int k = 0; k < EACH; k++) {
        #pragma unroll
        for (int j = 0; j < PACK; j++) tile[warp + WARPS * k][first + j] = held[k].v[j];
    }
    __syncthreads();
    #pragma unroll
    for (int k = 0; k < EACH; k++) {
        int i = warp + WARPS * k;
        if (column + i < columns && row + first < rows) {
            Vec<T, PACK> part;
            #pragma unroll
            for (int j = 0; j < PACK; j++) part.v[j] = tile[first + j][i];
            *reinterpret_cast<Vec<T, PACK> *>(y + matrix + (column + i) * rows + row + first) = part;
        }
    }
}
