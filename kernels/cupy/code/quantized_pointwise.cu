// Quantized tensors added, and averaged over images: dequantized in float32, quantized again.
// T: element type of all; SCALE: type of the scales; VEC: elements of an access; RELU: sums not below 0;
// LAST: whether the channels are last.

typedef Vec<T, VEC> Pack;

__device__ __forceinline__ T quantized(float value, float scale, int zero) {
    float low = T(-1) < T(0) ? -128.0f : 0.0f;
    value = rintf(value / scale) + float(zero);
    return T(int32_t(value != value ? 0.0f : min(max(value, low), low + 255.0f)));
}

// y may be a or b.
extern "C" __global__ void __launch_bounds__(256)
quantized_add(const T *a, const T *b, T *y, const SCALE *a_scale, const T *a_zero, const SCALE *b_scale,
              const T *b_zero, const SCALE *y_scale, const T *y_zero, long long count) {
    long long at = first_index();
    if (at >= count) return;
    float scale_a = widen(*a_scale), scale_b = widen(*b_scale), scale_y = widen(*y_scale);
    int zero_a = *a_zero, zero_b = *b_zero, zero_y = *y_zero;
    Pack left = reinterpret_cast<const Pack *>(a)[at], right = reinterpret_cast<const Pack *>(b)[at], made;
#pragma unroll
    for (int e = 0; e < VEC; e++) {
        float sum = float(int(left.v[e]) - zero_a) * scale_a + float(int(right.v[e]) - zero_b) * scale_b;
        if (RELU) sum = max(sum, 0.0f);
        made.v[e] = quantized(sum, scale_y, zero_y);
    }
    reinterpret_cast<Pack *>(y)[at] = made;
}

// Means of x (images, channels, pixels), or (images, pixels, channels), by blocks of 8 warps.
// A block has 32 * VEC channels of an image where they are last, else a warp has a channel.
extern "C" __global__ void __launch_bounds__(256)
quantized_mean(const T *__restrict__ x, T *__restrict__ y, const SCALE *x_scale, const T *x_zero,
               const SCALE *y_scale, const T *y_zero, long long rows, long long channels, long long pixels) {
    __shared__ int held[8][32 * VEC];
    int lane = threadIdx.x, warp = threadIdx.y;
    float factor = widen(*x_scale) / float(pixels), scale = widen(*y_scale);
    long long shift = (long long)(*x_zero) * pixels;
#if LAST
    long long blocks = (channels + 32 * VEC - 1) / (32 * VEC), image = blockIdx.x / blocks;
    long long first = (blockIdx.x - image * blocks) * 32 * VEC + lane * VEC;
    int sums[VEC] = {};
    if (first < channels)
        for (long long i = warp; i < pixels; i += 8) {
            Pack part = *reinterpret_cast<const Pack *>(x + (image * pixels + i) * channels + first);
#pragma unroll
            for (int e = 0; e < VEC; e++) sums[e] += part.v[e];
        }
#pragma unroll
    for (int e = 0; e < VEC; e++) held[warp][lane * VEC + e] = sums[e];
    __syncthreads();
    for (int c = warp * 32 + lane; c < 32 * VEC; c += 256) {
        long long channel = (blockIdx.x - image * blocks) * 32 * VEC + c;
        if (channel >= channels) continue;
        long long sum = 0;
        for (int i = 0; i < 8; i++) sum += held[i][c];
        y[image * channels + channel] = quantized(float(sum - shift) * factor, scale, *y_zero);
    }
#else
    long long row = blockIdx.x * 8ll + warp;
    int sum = 0;
    if (row < rows)
        for (long long i = lane; i < pixels; i += WARP) sum += x[row * pixels + i];
    sum = warp_all(sum, Sum());
    if (lane == 0 && row < rows) y[row] = quantized(float(sum - shift) * factor, scale, *y_zero);
#endif
}
