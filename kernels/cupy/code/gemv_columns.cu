// Products of few rows of A (1 to 4) with a matrix B that is read once, at the speed of memory.
// Sums are in the wide type, in an order that only the shape decides.
// B lies as (K, N): LANES threads side by side hold VEC columns each, the others of a block share k; and so do
// `splits` blocks, each of which leaves its sums in `parts` (matrices, splits, ROWS, N) for `sum_parts`.
//
// T: element type; ROWS: rows of A; VEC: elements of one access to B, a divisor of its rows; INDEX: of elements of B.
#include "product.cuh"

typedef Wide<T>::type A;
typedef INDEX Index;
typedef Vec<T, VEC> Piece;

#define THREADS 256
#define SLOTS (THREADS / LANES)
#define WIDTH (LANES * VEC)
#define DEPTH 8  // rows of B that a thread has on their way at once

__device__ __forceinline__ void multiply(A (*sums)[VEC], const Piece &right, const T *a, Index k, Index K) {
#pragma unroll
    for (int m = 0; m < ROWS; m++) {
        A left = widen(a[m * K + k]);
#pragma unroll
        for (int v = 0; v < VEC; v++) sums[m][v] += left * widen(right.v[v]);
    }
}

extern "C" __global__ void __launch_bounds__(256, 2)
gemv_columns(const T *__restrict__ a, const T *__restrict__ b, T *__restrict__ y, const T *__restrict__ bias,
             const T *__restrict__ residual, const long long *__restrict__ table, long long N, long long K,
             long long bias_matrix, long long bias_row, long long bias_column, FACTOR scale, FACTOR beta,
             double alpha, double act_beta, A *__restrict__ parts, long long splits, long long depth) {
    __shared__ A held[THREADS / WARP][ROWS][WIDTH];
    unsigned blocks = unsigned((N + WIDTH - 1) / WIDTH);
    unsigned split = blockIdx.x / blocks % unsigned(splits);
    long long matrix = blockIdx.x / blocks / unsigned(splits);
    Index first = Index(blockIdx.x % blocks) * WIDTH;
    Index n = first + threadIdx.x % LANES * VEC;
    int slot = threadIdx.x / LANES;
    a += table[2 * matrix];
    b += table[2 * matrix + 1];
    A sums[ROWS][VEC] = {};
    if (n < N) {  // all of a piece or nothing of it, as VEC divides N
        Index end = Index(min((split + 1) * depth, K)), pitch = Index(N);
        for (Index k = Index(split * depth) + slot * DEPTH; k < end; k += SLOTS * DEPTH) {
            const T *from = b + k * pitch + n;
            if (k + DEPTH <= end) {
                Piece right[DEPTH];
#pragma unroll
                for (int u = 0; u < DEPTH; u++) right[u] = *reinterpret_cast<const Piece *>(from + u * pitch);
#pragma unroll
                for (int u = 0; u < DEPTH; u++) multiply(sums, right[u], a, k + u, K);
            } else {
                for (int u = 0; k + u < end; u++)
                    multiply(sums, *reinterpret_cast<const Piece *>(from + u * pitch), a, k + u, K);
            }
        }
    }
#pragma unroll
    for (int m = 0; m < ROWS; m++)
#pragma unroll
        for (int v = 0; v < VEC; v++) {
            for (int offset = LANES; offset < WARP; offset <<= 1)
                sums[m][v] += __shfl_xor_sync(FULL_WARP, sums[m][v], offset);
            if (threadIdx.x % WARP < LANES)
                held[threadIdx.x / WARP][m][threadIdx.x % LANES * VEC + v] = sums[m][v];
        }
    __syncthreads();
    Addends addends = {bias, residual, scale, beta, alpha, act_beta};
    for (int i = threadIdx.x; i < ROWS * WIDTH; i += THREADS) {
        int m = i / WIDTH;
        n = first + i % WIDTH;
        if (n >= N) continue;
        A sum = held[0][m][i % WIDTH];
        for (int w = 1; w < THREADS / WARP; w++) sum += held[w][m][i % WIDTH];
        long long at = (matrix * ROWS + m) * N + n;
        if (parts)
            parts[((matrix * splits + split) * ROWS + m) * N + n] = sum;
        else
            y[at] = addends.finish(sum, matrix * bias_matrix + m * bias_row + n * bias_column, at);
    }
}

// Adds what the blocks have left, one thread an element.
extern "C" __global__ void __launch_bounds__(256)
sum_parts(const A *__restrict__ parts, T *__restrict__ y, const T *__restrict__ bias,
          const T *__restrict__ residual, long long count, long long N, long long splits, long long bias_matrix,
         long long bias_row, long long bias_column, FACTOR scale, FACTOR beta, double alpha, double act_beta) {
    long long at = first_index();
    if (at >= count) return;
    long long n = at % N, m = at / N % ROWS, matrix = at / N / ROWS;
    const A *from = parts + (matrix * splits * ROWS + m) * N + n;
    A sum = from[0];
    for (long long s = 1; s < splits; s++) sum += from[s * ROWS * N];
    Addends addends = {bias, residual, scale, beta, alpha, act_beta};
    y[at] = addends.finish(sum, matrix * bias_matrix + m * bias_row + n * bias_column, at);
}
