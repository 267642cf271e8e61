// Products of few rows of A (1 to 4) with a matrix B that is read once, at the speed of memory.
// Sums are in the wide type, in an order that only the shape decides.
// B lies as (N, K): GROUP threads (8, 16, 32 or a whole block of 256) share each of its rows.
//
// T: element type; ROWS: rows of A; VEC: elements of one access to B, a divisor of its rows.
#include "product.cuh"

typedef Wide<T>::type A;
typedef Vec<T, VEC> Piece;

#define THREADS 256
#define AHEAD 4  // accesses of a thread that are on their way at once

__device__ __forceinline__ void multiply(A *sums, const Piece &right, const T *a, long long k, long long K) {
#pragma unroll
    for (int m = 0; m < ROWS; m++) {
        Piece left = *reinterpret_cast<const Piece *>(a + m * K + k);
#pragma unroll
        for (int v = 0; v < VEC; v++) sums[m] += widen(left.v[v]) * widen(right.v[v]);
    }
}

extern "C" __global__ void __launch_bounds__(256)
gemv_rows(const T *__restrict__ a, const T *__restrict__ b, T *__restrict__ y, const T *__restrict__ bias,
           const T *__restrict__ residual, const long long *__restrict__ table, long long N, long long K,
           long long bias_matrix, long long bias_row, long long bias_column, FACTOR scale, FACTOR beta,
           double alpha, double act_beta) {
    constexpr int PER_BLOCK = THREADS / GROUP;
    unsigned blocks = unsigned((N + PER_BLOCK - 1) / PER_BLOCK);
    long long matrix = blockIdx.x / blocks;
    long long n = (long long)(blockIdx.x % blocks) * PER_BLOCK + threadIdx.x / GROUP;
    int lane = threadIdx.x % GROUP;
    a += table[2 * matrix];
    A sums[ROWS] = {};
    if (n < N) {
        const T *from = b + table[2 * matrix + 1] + n * K;
        constexpr int STEP = GROUP * VEC;
        long long k = lane * VEC;
        for (; k + (AHEAD - 1) * STEP < K; k += AHEAD * STEP) {
            Piece right[AHEAD];
#pragma unroll
            for (int u = 0; u < AHEAD; u++) right[u] = *reinterpret_cast<const Piece *>(from + k + u * STEP);
#pragma unroll
            for (int u = 0; u < AHEAD; u++) multiply(sums, right[u], a, k + u * STEP, K);
        }
        for (; k < K; k += STEP) multiply(sums, *reinterpret_cast<const Piece *>(from + k), a, k, K);
    }
#pragma unroll
    for (int m = 0; m < ROWS; m++)
        for (int offset = (GROUP < WARP ? GROUP : WARP) / 2; offset; offset >>= 1)
            sums[m] += __shfl_xor_sync(FULL_WARP, sums[m], offset);
#if GROUP > 32
    __shared__ A held[THREADS / WARP][ROWS];
    if (threadIdx.x % WARP == 0)
        for (int m = 0; m < ROWS; m++) held[threadIdx.x / WARP][m] = sums[m];
    __syncthreads();
    for (int m = 0; m < ROWS; m++) {
        sums[m] = held[0][m];
        for (int w = 1; w < THREADS / WARP; w++) sums[m] += held[w][m];
    }
#endif
    if (lane != 0 || n >= N) return;
    Addends addends = {bias, residual, scale, beta, alpha, act_beta};
#pragma unroll
    for (int m = 0; m < ROWS; m++) {
        long long at = (matrix * ROWS + m) * N + n;
        y[at] = addends.finish(sums[m], matrix * bias_matrix + m * bias_row + n * bias_column, at);
    }
}
