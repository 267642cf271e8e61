// Products of few rows of A (1 to 4) with a matrix B that is read once, at the speed of memory.
// Sums are in the wide type, in an order that only the shape decides.
// B lies as (K, pitch), of which N columns count: LANES threads side by side hold VEC columns each, the others of a
// block share k; and so do `splits` blocks, each of which leaves its sums in `parts` (matrices, splits, ROWS, N).
//
// T: element type; ROWS: rows of A; VEC: elements of one access to B, a divisor of its pitch; AVEC: to A, a divisor
// of its rows; INDEX: of elements of B. NORM: whether A is normalised first, see norm_rows.cuh.
#include "product.cuh"
#include "arrivals.cuh"

typedef Wide<T>::type A;
typedef INDEX Index;
typedef Vec<T, VEC> Piece;

#define THREADS 256
#define SLOTS (THREADS / LANES)
#define WIDTH (LANES * VEC)
#define DEPTH (ROWS > 2 ? 4 : 8)  // rows of B that a thread has on their way at once, by its registers
#define LEFT (AVEC > DEPTH ? DEPTH : AVEC)  // elements of each row of A that it holds


#include "norm_rows.cuh"

// Adds the products of DEEP rows of B with elements of A, of which an access takes WIDE.
template <int DEEP, int WIDE>
__device__ __forceinline__ void multiply(A (*sums)[VEC], const Piece *right, const T *a, Index k, Index K) {
#pragma unroll
    for (int u = 0; u < DEEP; u += WIDE) {
        Vec<T, WIDE> left[ROWS];
#pragma unroll
        for (int m = 0; m < ROWS; m++) left[m] = *reinterpret_cast<const Vec<T, WIDE> *>(a + m * K + k + u);
#pragma unroll
        for (int i = 0; i < WIDE; i++)
#pragma unroll
            for (int m = 0; m < ROWS; m++) {
                A element = widen(left[m].v[i]);
#pragma unroll
                for (int v = 0; v < VEC; v++) sums[m][v] += element * widen(right[u + i].v[v]);
            }
    }
}

__device__ __forceinline__ void fetch(Piece *right, const T *from, Index pitch) {
#pragma unroll
    for (int u = 0; u < DEPTH; u++) right[u] = *reinterpret_cast<const Piece *>(from + u * pitch);
}

extern "C" __global__ void __launch_bounds__(256, 2)
gemv_columns(const T *__restrict__ a, const T *__restrict__ b, T *__restrict__ y, const T *__restrict__ bias,
             const T *__restrict__ residual, const long long *__restrict__ table, long long N, long long K,
             long long bias_matrix, long long bias_row, long long bias_column, FACTOR scale, FACTOR beta,
             double alpha, double act_beta, long long pitch, A *parts, unsigned *arrived, long long splits,
             long long depth, const T *__restrict__ gain, const T *__restrict__ shift, double epsilon) {
    __shared__ A held[THREADS / WARP][ROWS][WIDTH];
    __shared__ bool is_last;
    unsigned blocks = unsigned((N + WIDTH - 1) / WIDTH), column = blockIdx.x % blocks;
    unsigned split = blockIdx.x / blocks % unsigned(splits);
    long long matrix = blockIdx.x / blocks / unsigned(splits);
    Index first = Index(column) * WIDTH;
    Index n = first + threadIdx.x % LANES * VEC;
    if (table) {
        a += table[2 * matrix];
        b += table[2 * matrix + 1];
    }
    Index end = n < N ? Index(min((split + 1) * depth, K)) : 0;  // all of a piece or nothing of it
    Index k = Index(split * depth) + threadIdx.x / LANES * DEPTH;
    b += n;
    Piece right[DEPTH];
    if (k + DEPTH <= end) fetch(right, b + k * Index(pitch), Index(pitch));
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
    A sums[ROWS][VEC] = {};
    while (k < end) {
        if (k + DEPTH <= end) {
            multiply<DEPTH, LEFT>(sums, right, left, k, Index(K));
        } else {
            for (int u = 0; k + u < end; u++) {
                Piece one = *reinterpret_cast<const Piece *>(b + (k + u) * Index(pitch));
                multiply<1, 1>(sums, &one, left, k + u, Index(K));
            }
        }
        k += SLOTS * DEPTH;
        if (k + DEPTH <= end) fetch(right, b + k * Index(pitch), Index(pitch));
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
    parts += (matrix * splits * ROWS) * N;
    for (int i = threadIdx.x; i < ROWS * WIDTH; i += THREADS) {
        int m = i / WIDTH;
        n = first + i % WIDTH;
        if (n >= N) continue;
        A sum = held[0][m][i % WIDTH];
        for (int w = 1; w < THREADS / WARP; w++) sum += held[w][m][i % WIDTH];
        long long at = (matrix * ROWS + m) * N + n;
        if (splits > 1)
            parts[(split * ROWS + m) * N + n] = sum;
        else
            y[at] = addends.finish(sum, matrix * bias_matrix + m * bias_row + n * bias_column, at);
    }
    if (splits == 1 || !arrives_last(arrived + matrix * blocks + column, unsigned(splits), &is_last)) return;
    for (int i = threadIdx.x; i < ROWS * WIDTH; i += THREADS) {
        int m = i / WIDTH;
        n = first + i % WIDTH;
        if (n >= N) continue;
        A sum = parts[m * N + n];
#pragma unroll 8
        for (long long s = 1; s < splits; s++) sum += parts[(s * ROWS + m) * N + n];
        long long at = (matrix * ROWS + m) * N + n;
        y[at] = addends.finish(sum, matrix * bias_matrix + m * bias_row + n * bias_column, at);
    }
}
