// DynamicQuantizeLinear of the left side of a product, into the form that `int8_gemm.cu` reads: bytes shifted to
// signed ones, rows of `pitch` bytes with zeros behind the last element.

#include "extremes.cuh"

// Scale, zero point, the bytes and the sum of each row; a warp takes a row.
extern "C" __global__ void __launch_bounds__(256)
quantized_rows(const float *__restrict__ x, const float *__restrict__ parts, uint8_t *__restrict__ y,
               int32_t *__restrict__ sums, float *__restrict__ scale_out, uint8_t *__restrict__ zero_out,
               long long count, long long K, long long pitch, long long rows) {
    __shared__ float held[32];
    Extremes found = of_block(extremes_of_parts(parts, count), held);
    float scale = scale_of(found), zero = zero_of(found, scale);
    if (first_index() == 0) {
        *scale_out = scale;
        *zero_out = uint8_t(zero);
    }
    long long row = first_index() / WARP;
    if (row >= rows) return;  // whole warps
    int32_t sum = 0;
    for (long long k = threadIdx.x % WARP * 4; k < pitch; k += WARP * 4) {
        Vec<float, 4> given = {};
        if (K % 4 == 0 && k < K) given = *reinterpret_cast<const Vec<float, 4> *>(x + row * K + k);
        Vec<uint8_t, 4> made = {};
#pragma unroll
        for (int v = 0; v < 4; v++) {
            if (k + v >= K) continue;
            if (K % 4 != 0) given.v[v] = x[row * K + k + v];
            made.v[v] = quantized(given.v[v], scale, zero) ^ 0x80;
            sum += int8_t(made.v[v]);
        }
        *reinterpret_cast<Vec<uint8_t, 4> *>(y + row * pitch + k) = made;
    }
    sum = warp_all(sum, Sum());
    if (threadIdx.x % WARP == 0) sums[row] = sum;
}
