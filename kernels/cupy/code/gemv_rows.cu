// Products of few rows of A (1 to 4) with a matrix B that is read once, at the speed of memory.
// Sums are in the wide type, in an order that only the shape decides.
// B lies as (N, K): GROUP threads (a power of two from 8 to a whole block of 256) share each of its rows.
//
// T: element type; ROWS: rows of A; VEC, AVEC: elements of one access to B and A, a divisor of their rows.
// NORM: whether A is normalised first, see norm_rows.cuh.
#include "product.cuh"

typedef Wide<T>::type A;
typedef Vec<T, VEC> Piece;

#define THREADS 256
#define AHEAD 4  // accesses of a thread that are on their way at once
#define STEP (GROUP * VEC)
#define RESIDENT (NORM || ROWS > 2 ? 2 : 4)  // blocks of a multiprocessor at once, by their registers

#include "norm_rows.cuh"

__device__ __forceinline__ void fetch(Piece *right, const T *row, long long k, long long K) {
#pragma unroll
    for (int u = 0; u < AHEAD; u++)
        if (k + u * STEP < K) right[u] = *reinterpret_cast<const Piece *>(row + k + u * STEP);
}

__device__ __forceinline__ void multiply(A *sums, const Piece &right, const T *a, long long k, long long K) {
#pragma unroll
    for (int m = 0; m < ROWS; m++) {
        Piece left = *reinterpret_cast<const Piece *>(a + m * K + k);
#pragma unroll
        for (int v = 0; v < VEC; v++) sums[m] += widen(left.v[v]) * widen(right.v[v]);
    }
}

extern "C" __global__ void __launch_bounds__(256, RESIDENT)
gemv_rows(const T *__restrict__ a, const T *__restrict__ b, T *__restrict__ y, const T *__restrict__ bias,
           const T *__restrict__ residual, const long long *__restrict__ table, long long N, long long K,
           long long bias_matrix, long long bias_row, long long bias_column, FACTOR scale, FACTOR beta,
           double alpha, double act_beta, const T *__restrict__ gain, const T *__restrict__ shift, double epsilon) {
    constexpr int PER_BLOCK = THREADS / GROUP;
    unsigned blocks = unsigned((N + PER_BLOCK - 1) / PER_BLOCK);
    long long matrix = blockIdx.x / blocks;
    long long n = (long long)(blockIdx.x % blocks) * PER_BLOCK + threadIdx.x / GROUP;
    int lane = threadIdx.x % GROUP;
    if (table) {
        a += table[2 * matrix];
        b += table[2 * matrix + 1];
    }
    b += n * K;
    long long k = n < N ? lane * VEC : K;
    Piece right[AHEAD];
    fetch(right, b, k, K);
#if NORM
    // While B is on its way.
    extern __shared__ __align__(16) unsigned char memory[];
    __shared__ A held_sums[ROWS][NORM_WARPS];
    T *rows = (T *)memory;
    normalize(rows, a, gain, shift, int(K), epsilon, held_sums);
    const T *left = rows;
#else
    const T *left = a;
#endif
    A sums[ROWS] = {};
    while (k < K) {
#pragma unroll
        for (int u = 0; u < AHEAD; u++)
            if (k + u * STEP < K) multiply(sums, right[u], left, k + u * STEP, K);
        k += AHEAD * STEP;
        fetch(right, b, k, K);
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
    int begin = threadIdx.x / GROUP * (GROUP / WARP);
    for (int m = 0; m < ROWS; m++) {
        sums[m] = held[begin][m];
        for (int w = 1; w < GROUP / WARP; w++) sums[m] += held[begin + w][m];
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
