// DynamicQuantizeLinear of the left side of a product, into the form that `int8_gemm.cu` reads: bytes shifted to
// signed ones, rows of `pitch` bytes with zeros behind the last element.

typedef Vec<float, 4> Piece;

// The least and the largest element of each block's share, and 0: (blocks, 2).
extern "C" __global__ void __launch_bounds__(256)
extremes(const float *__restrict__ x, float *__restrict__ parts, long long count) {
    __shared__ float held[32];
    float low = 0, high = 0;
#pragma unroll 4
    for (long long i = first_index(); i < count / 4; i += index_step()) {
        Piece piece = reinterpret_cast<const Piece *>(x)[i];
#pragma unroll
        for (int v = 0; v < 4; v++) {
            low = min_nan(low, piece.v[v]);
            high = max_nan(high, piece.v[v]);
        }
    }
    if (first_index() < count % 4) {
        float value = x[count / 4 * 4 + first_index()];
        low = min_nan(low, value);
        high = max_nan(high, value);
    }
    // Minimum and Maximum keep a NaN on either side.
    low = block_all(low, Minimum(), held);
    high = block_all(high, Maximum(), held);
    if (threadIdx.x == 0) {
        parts[2 * blockIdx.x] = low;
        parts[2 * blockIdx.x + 1] = high;
    }
}

// Scale, zero point, the bytes and the sum of each row; a warp takes a row.
extern "C" __global__ void __launch_bounds__(256)
quantized_rows(const float *__restrict__ x, const float *__restrict__ parts, uint8_t *__restrict__ y,
               int32_t *__restrict__ sums, float *__restrict__ scale_out, uint8_t *__restrict__ zero_out,
               long long count, long long K, long long pitch, long long rows) {
    __shared__ float held[32];
    float low = 0, high = 0;
    for (long long i = threadIdx.x; i < count; i += blockDim.x) {
        low = min_nan(low, parts[2 * i]);
        high = max_nan(high, parts[2 * i + 1]);
    }
    low = block_all(low, Minimum(), held);
    high = block_all(high, Maximum(), held);
    float scale = (high - low) / 255.0f;
    float place = rintf(min_nan(max_nan(-low / scale, 0.0f), 255.0f));
    float zero = place == place ? place : 0.0f;
    if (first_index() == 0) {
        *scale_out = scale;
        *zero_out = uint8_t(zero);
    }
    long long row = first_index() / WARP;
    if (row >= rows) return;  // whole warps
    int32_t sum = 0;
    for (long long k = threadIdx.x % WARP * 4; k < pitch; k += WARP * 4) {
        Vec<uint8_t, 4> made = {};
#pragma unroll
        for (int v = 0; v < 4; v++) {
            if (k + v >= K) continue;
            float value = x[row * K + k + v] / scale;
            value = value == value ? min(max(rintf(value) + zero, 0.0f), 255.0f) : 0.0f;
            made.v[v] = uint8_t(value) ^ 0x80;
            sum += int8_t(made.v[v]);
        }
        *reinterpret_cast<Vec<uint8_t, 4> *>(y + row * pitch + k) = made;
    }
    sum = warp_all(sum, Sum());
    if (threadIdx.x % WARP == 0) sums[row] = sum;
}
