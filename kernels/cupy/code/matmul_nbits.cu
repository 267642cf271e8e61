// Products of few rows of A with weights (N, K) of 2, 4 or 8 bits, which are read once, at the speed of memory.
// A warp has some columns of the product (rows of B); its lanes, and the warps that share them, divide K.
//
// T, BITS, ZEROS: see nbits.cuh; ROWS: of A at once; COLUMNS: of a warp; WARPS: that share these; WORDS: of
// 32 bits in an access to B, a divisor of its rows; SPAN: of them with the same scale; WHOLE: whether K is a
// multiple of the codes of half a word.
#include "nbits.cuh"

#define THREADS 256
#define TEAMS (THREADS / WARP / WARPS)
// Blocks of a multiprocessor at once, by the registers that one row takes; from sm_100 on it takes more.
#if ROWS == 1 && (!defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 1000)
#define RESIDENT 3
#else
#define RESIDENT 2
#endif

typedef Vec<uint32_t, WORDS> Piece;

// The elements of A for the codes of half a word from `k` on; zero from K on.
__device__ __forceinline__ void load_left(float *left, const T *a, long long k, long long K) {
#if WHOLE
    constexpr int VEC = PLACES * sizeof(T) > 16 ? 16 / sizeof(T) : PLACES;
#pragma unroll
    for (int i = 0; i < PLACES; i += VEC) {
        Vec<T, VEC> held = {};
        if (k < K) held = *reinterpret_cast<const Vec<T, VEC> *>(a + k + i);
#pragma unroll
        for (int v = 0; v < VEC; v++) left[i + v] = widen(held.v[v]);
    }
#else
#pragma unroll
    for (int i = 0; i < PLACES; i++) left[i] = k + i < K ? widen(a[k + i]) : 0.0f;
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
nbits_few(const T *__restrict__ a, const uint32_t *__restrict__ b, const T *__restrict__ scales,
          const ZERO *__restrict__ zeros, T *__restrict__ y, const T *__restrict__ bias, long long M, long long N,
          long long K, long long blocks, long long zero_bytes, long long words, long long block_shift) {
    __shared__ float held[TEAMS][WARPS][ROWS][COLUMNS];
    int lane = threadIdx.x % WARP, part = threadIdx.x / WARP % WARPS, team = threadIdx.x / WARP / WARPS;
    long long first = (blockIdx.x * (long long)TEAMS + team) * COLUMNS;
    long long row = blockIdx.y * (long long)ROWS;
    float totals[ROWS][COLUMNS] = {};
    int pieces = int(words / WORDS);
#pragma unroll 1  // each has many loads on their way
    for (int piece = part * WARP + lane; piece < pieces; piece += WARPS * WARP) {
        Piece codes[COLUMNS];
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)  // columns behind the last stand for it
            codes[c] = *reinterpret_cast<const Piece *>(b + min(first + c, N - 1) * words + piece * WORDS);
#pragma unroll
        for (int span = 0; span < WORDS; span += SPAN) {
            int block = (piece * WORDS + span) >> int(block_shift);
            float sums[ROWS][COLUMNS][PLACES] = {};
            float scale[COLUMNS];
            Offsets offsets[COLUMNS];
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                long long n = min(first + c, N - 1);
                scale[c] = widen(scales[n * blocks + block]);
                offsets[c].load(zeros, n, block, blocks, zero_bytes);
            }
#pragma unroll
            for (int half = 0; half < 2 * SPAN; half++) {
                float left[ROWS][PLACES];
                long long k = (long long)(piece * WORDS + span) * CODES + half * PLACES;
#pragma unroll
                for (int m = 0; m < ROWS; m++) load_left(left[m], a + min(row + m, M - 1) * K, k, K);
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) {
                    uint32_t bits = codes[c].v[span + half / 2] >> (half % 2 * 16);
#pragma unroll
                    for (int i = 0; i < PLACES; i++) {
                        float weight = offsets[c].difference(bits, i);
#pragma unroll
                        for (int m = 0; m < ROWS; m++) sums[m][c][i] += weight * left[m][i];
                    }
                }
            }
#pragma unroll
            for (int m = 0; m < ROWS; m++)
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) {
                    float sum = sums[m][c][0];
#pragma unroll
                    for (int i = 1; i < PLACES; i++) sum += sums[m][c][i] * place_factor(i);
                    totals[m][c] += sum * scale[c];
                }
        }
    }
#pragma unroll
    for (int m = 0; m < ROWS; m++)
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            float total = warp_all(totals[m][c], Sum());
            if (lane == 0) held[team][part][m][c] = total;
        }
    __syncthreads();
    int index = threadIdx.x;
    if (index >= TEAMS * ROWS * COLUMNS) return;
    int c = index % COLUMNS, of = index / COLUMNS % TEAMS, m = index / COLUMNS / TEAMS;
    long long n = (blockIdx.x * (long long)TEAMS + of) * COLUMNS + c;
    if (n >= N || row + m >= M) return;
    float total = held[of][0][m][c];
    for (int w = 1; w < WARPS; w++) total += held[of][w][m][c];
    if (bias) total += widen(bias[n]);
    y[(row + m) * N + n] = narrow<T>(total);
}
