// Brings 8-bit matrices into the form that `int8_gemm.cu` and cuBLASLt read: signed, rows of `pitch` bytes, a
// multiple of 16, with zeros behind the last element.
// SHIFT: the bytes are unsigned, and are shifted by 128.

typedef Vec<uint8_t, 16> Piece;

__device__ __forceinline__ uint8_t signed_byte(uint8_t byte) { return SHIFT ? byte ^ 0x80 : byte; }

// Rows (count, K), one warp each; with `sums` also the sum of each row.
extern "C" __global__ void __launch_bounds__(256)
int8_rows(const uint8_t *__restrict__ x, uint8_t *__restrict__ y, int32_t *__restrict__ sums, long long count,
          long long K, long long pitch) {
    long long row = first_index() / WARP;
    int lane = threadIdx.x % WARP;
    if (row >= count) return;  // whole warps
    int32_t sum = 0;
    for (long long k = lane * 16; k < pitch; k += WARP * 16) {
        Piece piece = {};
        if (K % 16 == 0) piece = *reinterpret_cast<const Piece *>(x + row * K + k);
#pragma unroll
        for (int i = 0; i < 16; i++) {
            bool inside = k + i < K;
            if (K % 16 != 0 && inside) piece.v[i] = x[row * K + k + i];
            if (inside) piece.v[i] = signed_byte(piece.v[i]);
            sum += int8_t(piece.v[i]);
        }
        *reinterpret_cast<Piece *>(y + row * pitch + k) = piece;
    }
    sum = warp_all(sum, Sum());
    if (sums && lane == 0) sums[row] = sum;
}

// Columns of matrices (K, N), as rows (N, pitch); a block turns 64 by 64 bytes.
extern "C" __global__ void __launch_bounds__(256)
int8_columns(const uint8_t *__restrict__ x, uint8_t *__restrict__ y, long long K, long long N, long long pitch) {
    __shared__ uint32_t words[16][65];
    unsigned tiles_n = unsigned((N + 63) / 64), tiles_k = unsigned((pitch + 63) / 64);
    long long n0 = (long long)(blockIdx.x % tiles_n) * 64, k0 = (long long)(blockIdx.x / tiles_n % tiles_k) * 64;
    long long matrix = blockIdx.x / tiles_n / tiles_k, n = n0 + threadIdx.x % 64;
    x += matrix * K * N;
#pragma unroll
    for (int w = 0; w < 4; w++) {
        int deep = threadIdx.x / 64 * 4 + w;
        uint32_t word = 0;
        for (int i = 0; i < 4; i++) {
            long long k = k0 + deep * 4 + i;
            if (k < K && n < N) word |= uint32_t(signed_byte(x[k * N + n])) << (8 * i);
        }
        words[deep][threadIdx.x % 64] = word;
    }
    __syncthreads();
    int across = threadIdx.x / 4, quarter = threadIdx.x % 4;
    long long k = k0 + quarter * 16;
    if (n0 + across >= N || k >= pitch) return;
    Vec<uint32_t, 4> made;
    for (int i = 0; i < 4; i++) made.v[i] = words[quarter * 4 + i][across];
    *reinterpret_cast<Vec<uint32_t, 4> *>(y + (matrix * N + n0 + across) * pitch + k) = made;
}
