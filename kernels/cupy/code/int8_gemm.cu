// Products of 8-bit integers, four at a time (dp4a), with zero points, and what is made of the sums.
//
//     total = sum (a - a_zero) (b - b_zero) = sum a b - a_zero sum b - b_zero sum a + K a_zero b_zero
//
// in int32, modulo 2**32. A lies in rows of `pitch` bytes, B in columns of `pitch` bytes (N, pitch), whole times
// 16, zeros behind K. Unsigned bytes are shifted by 128, and their zero points with them, so that all are signed.
//
// ROW_SUMS, COLUMN_SUMS: whether b_zero, a_zero may be other than 0; KIND of result: 0 the total, 1 total *
// (a_scale * b_scale) + bias in float32, 2 quantized in float64: (total + bias) * (a_scale * b_scale / y_scale) +
// y_zero, with `relu` not below y_zero; OUT: its type; SCALE: type of the scales; ROWS: of A, for `int8_gemv`.
// Parameters: a_unsigned, b_unsigned: types of the zero points; a_shift: A itself is still unsigned; steps: 1
// where there is one value for each row (of `period`) or column, 0 where there is one for all.

typedef Vec<int32_t, 4> Words;  // 16 bytes

#define THREADS 256
#define TILE 64
#define PER 4
#define STEPS 16  // words of k at a time
#define PITCH (TILE + 4)

#if KIND == 1
typedef float Bias;
#else
typedef int32_t Bias;
#endif

__device__ __forceinline__ Words words_of(const uint8_t *from) {
    return *reinterpret_cast<const Words *>(from);
}

__device__ __forceinline__ Words shifted(const uint8_t *from, uint32_t mask) {
    Words found = words_of(from);
    for (int i = 0; i < 4; i++) found.v[i] ^= int32_t(mask);
    return found;
}

__device__ __forceinline__ int32_t zero_of(const uint8_t *zero, long long at, bool is_unsigned) {
    int32_t raw = zero == nullptr ? 0 : is_unsigned ? int32_t(zero[at]) : int32_t(int8_t(zero[at]));
    return is_unsigned ? raw - 128 : raw;
}

struct Finish {
    const uint8_t *a_zero, *b_zero;
    const SCALE *a_scale, *b_scale, *y_scale;
    const OUT *y_zero;
    const Bias *bias;
    long long K, period, a_zero_step, b_zero_step, a_scale_step, b_scale_step, a_unsigned, b_unsigned, relu;

    __device__ __forceinline__ OUT operator()(uint32_t sum, uint32_t row_sum, uint32_t column_sum, long long m,
                                              long long n) const {
        m %= period;
        uint32_t left = COLUMN_SUMS ? uint32_t(zero_of(a_zero, m * a_zero_step, a_unsigned)) : 0;
        uint32_t right = ROW_SUMS ? uint32_t(zero_of(b_zero, n * b_zero_step, b_unsigned)) : 0;
        int32_t total = int32_t(sum - left * column_sum - right * row_sum + uint32_t(K) * left * right);
#if KIND == 0
        return OUT(total);
#elif KIND == 1
        float value = float(total) * (widen(a_scale[m * a_scale_step]) * widen(b_scale[n * b_scale_step]));
        return bias ? value + bias[n] : value;
#else
        double scale = double(widen(a_scale[m * a_scale_step])) * double(widen(b_scale[n * b_scale_step]));
        double goal = double(widen(y_scale[0])), value = double(total);
        value = bias ? (value + double(bias[n])) * (scale / goal) : value * scale / goal;
        value = rint(value) + double(y_zero[0]);
        double low = OUT(-1) < OUT(0) ? -128.0 : 0.0;
        value = value != value ? 0.0 : min(max(value, low), low + 255.0);
        OUT result = OUT(int32_t(value));
        return relu && result < y_zero[0] ? y_zero[0] : result;
#endif
    }
};

extern "C" __global__ void __launch_bounds__(256)
int8_gemm(const uint8_t *__restrict__ a, const uint8_t *__restrict__ b, OUT *__restrict__ y,
          const long long *__restrict__ table, const uint8_t *a_zero, const uint8_t *b_zero,
          const SCALE *a_scale, const SCALE *b_scale, const SCALE *y_scale, const OUT *y_zero,
          const Bias *bias, long long M, long long N, long long K, long long pitch, long long period,
          long long a_zero_step, long long b_zero_step, long long a_scale_step, long long b_scale_step,
          long long a_unsigned, long long b_unsigned, long long relu, long long a_shift) {
    __shared__ Words words_a[STEPS * PITCH / 4];
    __shared__ Words words_b[STEPS * PITCH / 4];
    int32_t(*tile_a)[PITCH] = reinterpret_cast<int32_t(*)[PITCH]>(words_a);
    int32_t(*tile_b)[PITCH] = reinterpret_cast<int32_t(*)[PITCH]>(words_b);
    unsigned tiles_n = unsigned((N + TILE - 1) / TILE), tiles_m = unsigned((M + TILE - 1) / TILE);
    long long n0 = (long long)(blockIdx.x % tiles_n) * TILE;
    long long m0 = (long long)(blockIdx.x / tiles_n % tiles_m) * TILE;
    long long matrix = blockIdx.x / tiles_n / tiles_m;
    int row = threadIdx.x / 16, column = threadIdx.x % 16, across = threadIdx.x / 4, deep = threadIdx.x % 4;
    const uint8_t *from_a = a + table[2 * matrix] + (m0 + across) * pitch + deep * 16;
    const uint8_t *from_b = b + table[2 * matrix + 1] + (n0 + across) * pitch + deep * 16;
    uint32_t mask = a_shift ? 0x80808080u : 0u;
    bool has_a = m0 + across < M, has_b = n0 + across < N;
    int32_t sums[PER][PER] = {}, row_sums[PER] = {}, column_sums[PER] = {};
    for (long long k = 0; k < pitch; k += 4 * STEPS) {
        bool inside = k + deep * 16 < pitch;
        Words left = {}, right = {};
        if (inside && has_a) left = shifted(from_a + k, mask);
        if (inside && has_b) right = words_of(from_b + k);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            tile_a[deep * 4 + i][across] = left.v[i];
            tile_b[deep * 4 + i][across] = right.v[i];
        }
        __syncthreads();
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            left = *reinterpret_cast<const Words *>(tile_a[s] + row * 4);
            right = *reinterpret_cast<const Words *>(tile_b[s] + column * 4);
#pragma unroll
            for (int i = 0; i < PER; i++) {
                if (ROW_SUMS) row_sums[i] = __dp4a(left.v[i], 0x01010101, row_sums[i]);
                if (COLUMN_SUMS) column_sums[i] = __dp4a(right.v[i], 0x01010101, column_sums[i]);
#pragma unroll
                for (int j = 0; j < PER; j++) sums[i][j] = __dp4a(left.v[i], right.v[j], sums[i][j]);
            }
        }
    }
    Finish finish = {a_zero,      b_zero,      a_scale,      b_scale,      y_scale,    y_zero,     bias, K, period,
                     a_zero_step, b_zero_step, a_scale_step, b_scale_step, a_unsigned, b_unsigned, relu};
#pragma unroll
    for (int i = 0; i < PER; i++)
#pragma unroll
        for (int j = 0; j < PER; j++) {
            long long m = m0 + row * 4 + i, n = n0 + column * 4 + j;
            if (m < M && n < N)
                y[(matrix * M + m) * N + n] = finish(sums[i][j], row_sums[i], column_sums[j], m, n);
        }
}

// The same for few rows of A: a warp for each column. Registers for four blocks of a multiprocessor hold all loads
// of the steps that are unrolled at once; left alone, ptxas takes fewer, loads one after the other and spills.
extern "C" __global__ void __launch_bounds__(256, 4)
int8_gemv(const uint8_t *__restrict__ a, const uint8_t *__restrict__ b, OUT *__restrict__ y,
          const long long *__restrict__ table, const uint8_t *a_zero, const uint8_t *b_zero,
          const SCALE *a_scale, const SCALE *b_scale, const SCALE *y_scale, const OUT *y_zero,
          const Bias *bias, long long M, long long N, long long K, long long pitch, long long period,
          long long a_zero_step, long long b_zero_step, long long a_scale_step, long long b_scale_step,
          long long a_unsigned, long long b_unsigned, long long relu, long long a_shift) {
    constexpr int PER_BLOCK = THREADS / WARP, AT_ONCE = ROWS > 1 ? 2 : 4;
    unsigned blocks = unsigned((N + PER_BLOCK - 1) / PER_BLOCK);
    long long matrix = blockIdx.x / blocks;
    long long n = (long long)(blockIdx.x % blocks) * PER_BLOCK + threadIdx.x / WARP;
    int lane = threadIdx.x % WARP;
    if (n >= N) return;  // whole warps
    const uint8_t *from_a = a + table[2 * matrix], *from_b = b + table[2 * matrix + 1] + n * pitch;
    uint32_t mask = a_shift ? 0x80808080u : 0u;
    int32_t sums[ROWS] = {}, row_sums[ROWS] = {}, column_sum = 0;
#pragma unroll AT_ONCE
    for (int k = lane * 16; k < int(pitch); k += WARP * 16) {
        Words right = words_of(from_b + k);
#pragma unroll
        for (int m = 0; m < ROWS; m++) {
            Words left = shifted(from_a + m * pitch + k, mask);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                sums[m] = __dp4a(left.v[i], right.v[i], sums[m]);
                if (ROW_SUMS) row_sums[m] = __dp4a(left.v[i], 0x01010101, row_sums[m]);
            }
        }
        if (COLUMN_SUMS)
            for (int i = 0; i < 4; i++) column_sum = __dp4a(right.v[i], 0x01010101, column_sum);
    }
    Finish finish = {a_zero,      b_zero,      a_scale,      b_scale,      y_scale,    y_zero,     bias, K, period,
                     a_zero_step, b_zero_step, a_scale_step, b_scale_step, a_unsigned, b_unsigned, relu};
    column_sum = warp_all(column_sum, Sum());
#pragma unroll
    for (int m = 0; m < ROWS; m++) {
        int32_t sum = warp_all(sums[m], Sum()), row_sum = warp_all(row_sums[m], Sum());
        if (lane == 0) y[(matrix * ROWS + m) * N + n] = finish(sum, row_sum, column_sum, m, n);
    }
}

// The same from the sums of a library.
extern "C" __global__ void __launch_bounds__(256)
int8_finish(const int32_t *sums, const int32_t *__restrict__ row_sums, const int32_t *__restrict__ column_sums,
            OUT *y, const uint8_t *a_zero, const uint8_t *b_zero, const SCALE *a_scale, const SCALE *b_scale,
            const SCALE *y_scale, const OUT *y_zero, const Bias *bias, long long M, long long N, long long K,
            long long period, long long a_zero_step, long long b_zero_step, long long a_scale_step,
            long long b_scale_step, long long a_unsigned, long long b_unsigned, long long relu) {
    long long at = first_index() * 4;  // 4 divides N
    if (at >= M * N) return;
    long long m = at / N, n = at % N;
    Words four = *reinterpret_cast<const Words *>(sums + at);
    Finish finish = {a_zero,      b_zero,      a_scale,      b_scale,      y_scale,    y_zero,     bias, K, period,
                     a_zero_step, b_zero_step, a_scale_step, b_scale_step, a_unsigned, b_unsigned, relu};
    Vec<OUT, 4> made;
#pragma unroll
    for (int v = 0; v < 4; v++)
        made.v[v] = finish(four.v[v], ROW_SUMS ? row_sums[m] : 0, COLUMN_SUMS ? column_sums[n + v] : 0, m, n + v);
    *reinterpret_cast<Vec<OUT, 4> *>(y + at) = made;
}
