// A stack of products of row-major matrices, by multiply-adds of single threads: what no library does.
// Every element adds its K products in order, whatever the tile: results do not depend on the batch.
//
// T: element type; TRANS_A: A lies as (K, M); TRANS_B: B as (N, K); TILE: rows and columns of a block's tile,
// 64 or 128; STEPS: of k at a time; INDEX: of elements of one matrix. Blocks have 256 threads, with TILE / 16 by
// TILE / 16 elements each.
#include "product.cuh"

typedef Accumulator<T>::type A;
typedef INDEX Index;

constexpr int UNROLLED = TILE == 128 ? 1 : 2;  // of steps: more would not fit the registers
typedef Vec<A, 4> Four;

#define THREADS 256
#define PER (TILE / 16)
#define LOADS (TILE * STEPS / THREADS)
#define PITCH (TILE + 4)

// Element i of this thread's share of a tile: (place along the tile, place along k).
template <bool K_FAST> __device__ __forceinline__ void place(int i, int &across, int &deep) {
    int index = threadIdx.x + i * THREADS;
    across = K_FAST ? index / STEPS : index % TILE;
    deep = K_FAST ? index % STEPS : index / TILE;
}

template <bool K_FAST>
__device__ __forceinline__ void load(T *held, const T *from, Index first, Index extent, Index k, Index K) {
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
        int across, deep;
        place<K_FAST>(i, across, deep);
        Index x = first + across, z = k + deep;
        held[i] = x < extent && z < K ? from[K_FAST ? x * K + z : z * extent + x] : T{};
    }
}

template <bool K_FAST> __device__ __forceinline__ void store(A (*tile)[PITCH], const T *held) {
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
        int across, deep;
        place<K_FAST>(i, across, deep);
        tile[deep][across] = A(widen(held[i]));
    }
}

// Place in the tile of this thread's element i along an axis: fours, a half tile apart.
__device__ __forceinline__ int spread(int thread, int i) { return thread * 4 + i % 4 + i / 4 * (TILE / 2); }

extern "C" __global__ void __launch_bounds__(256, 2)
gemm(const T *__restrict__ a, const T *__restrict__ b, T *__restrict__ y, const T *__restrict__ bias,
     const T *__restrict__ residual, const long long *__restrict__ table, long long M, long long N, long long K,
     long long bias_matrix, long long bias_row, long long bias_column, FACTOR scale, FACTOR beta, double alpha,
     double act_beta) {
    __shared__ Four fours_a[STEPS * PITCH / 4];
    __shared__ Four fours_b[STEPS * PITCH / 4];
    A(*tile_a)[PITCH] = reinterpret_cast<A(*)[PITCH]>(fours_a);
    A(*tile_b)[PITCH] = reinterpret_cast<A(*)[PITCH]>(fours_b);
    unsigned tiles_n = unsigned((N + TILE - 1) / TILE), tiles_m = unsigned((M + TILE - 1) / TILE);
    Index n0 = Index(blockIdx.x % tiles_n) * TILE;
    Index m0 = Index(blockIdx.x / tiles_n % tiles_m) * TILE;
    long long matrix = blockIdx.x / tiles_n / tiles_m;
    a += table[2 * matrix];
    b += table[2 * matrix + 1];
    T held_a[LOADS], held_b[LOADS];
    A sums[PER][PER] = {};
    int row = threadIdx.x / 16, column = threadIdx.x % 16;
    load<!TRANS_A>(held_a, a, m0, M, 0, K);
    load<TRANS_B != 0>(held_b, b, n0, N, 0, K);
    for (Index k = 0; k < K; k += STEPS) {
        __syncthreads();
        store<!TRANS_A>(tile_a, held_a);
        store<TRANS_B != 0>(tile_b, held_b);
        __syncthreads();
        // The next tile is on its way while this one is multiplied.
        load<!TRANS_A>(held_a, a, m0, M, k + STEPS, K);
        load<TRANS_B != 0>(held_b, b, n0, N, k + STEPS, K);
#pragma unroll UNROLLED
        for (int s = 0; s < STEPS; s++) {
            Four left[PER / 4], right[PER / 4];
#pragma unroll
            for (int i = 0; i < PER / 4; i++) {
                left[i] = *reinterpret_cast<const Four *>(tile_a[s] + spread(row, 4 * i));
                right[i] = *reinterpret_cast<const Four *>(tile_b[s] + spread(column, 4 * i));
            }
#pragma unroll
            for (int i = 0; i < PER; i++)
#pragma unroll
                for (int j = 0; j < PER; j++) sums[i][j] += left[i / 4].v[i % 4] * right[j / 4].v[j % 4];
        }
    }
    Addends addends = {bias, residual, scale, beta, alpha, act_beta};
#pragma unroll
    for (int i = 0; i < PER; i++) {
        Index m = m0 + spread(row, i);
        if (m >= M) continue;
        long long at = (matrix * M + m) * N, at_bias = matrix * bias_matrix + m * bias_row;
#pragma unroll
        for (int j = 0; j < PER; j++) {
            Index n = n0 + spread(column, j);
            if (n < N) y[at + n] = addends.finish(sums[i][j], at_bias + n * bias_column, at + n);
        }
    }
}
