// DynamicQuantizeLinear of float32 to uint8: the extremes, found by many blocks, then all the rest.
// ALONE: whether one block finds the extremes itself.
struct Extremes { float low, high; };

// Of elements a grid apart, with zero among them; NaN wins.
__device__ __forceinline__ Extremes extremes_of(const float *x, long long total, long long first, long long step) {
    Extremes found = {0.0f, 0.0f};
    long long vectors = total / 4;
#pragma unroll 4
    for (long long i = first; i < vectors; i += step) {
        Vec<float, 4> given = ((const Vec<float, 4> *)x)[i];
#pragma unroll
        for (int e = 0; e < 4; e++) {
            found.low = min_nan(found.low, given.v[e]);
            found.high = max_nan(found.high, given.v[e]);
        }
    }
    long long rest = vectors * 4 + first;
    if (rest < total) {
        found.low = min_nan(found.low, x[rest]);
        found.high = max_nan(found.high, x[rest]);
    }
    return found;
}

__device__ __forceinline__ Extremes of_block(Extremes found, float *held) {
    found.low = block_all(found.low, Minimum(), held);
    found.high = block_all(found.high, Maximum(), held);
    return found;
}

extern "C" __global__ void extremes(const float *__restrict__ x, float *__restrict__ parts, long long total) {
    __shared__ float held[32];
    Extremes found = of_block(extremes_of(x, total, first_index(), index_step()), held);
    if (threadIdx.x == 0) {
        parts[2 * blockIdx.x] = found.low;
        parts[2 * blockIdx.x + 1] = found.high;
    }
}

__device__ __forceinline__ uint8_t quantized(float x, float scale, float zero) {
    float q = rintf(x / scale) + zero;
    q = q < 0.0f ? 0.0f : q > 255.0f ? 255.0f : q;
    return q == q ? uint8_t(q) : uint8_t(0);
}

extern "C" __global__ void dynamic_quantize(const float *__restrict__ x, const float *__restrict__ parts,
                                            uint8_t *__restrict__ y, float *__restrict__ scale_goal,
                                            uint8_t *__restrict__ zero_goal, long long total, long long count,
                                            long long quantized_total) {
    __shared__ float held[32];
    Extremes found = {0.0f, 0.0f};
    if (ALONE) {
        found = extremes_of(x, total, threadIdx.x, blockDim.x);
    } else {
        for (int i = threadIdx.x; i < int(count); i += blockDim.x) {
            found.low = min_nan(found.low, parts[2 * i]);
            found.high = max_nan(found.high, parts[2 * i + 1]);
        }
    }
    found = of_block(found, held);
    float scale = (found.high - found.low) / 255.0f, zero = -found.low / scale;
    zero = zero < 0.0f ? 0.0f : zero > 255.0f ? 255.0f : zero;
    zero = zero == zero ? rintf(zero) : 0.0f;
    if (first_index() == 0) {
        *scale_goal = scale;
        *zero_goal = uint8_t(zero);
    }
    long long vectors = quantized_total / 4;
#pragma unroll 4
    for (long long i = first_index(); i < vectors; i += index_step()) {
        Vec<float, 4> given = ((const Vec<float, 4> *)x)[i];
        Vec<uint8_t, 4> goal;
#pragma unroll
        for (int e = 0; e < 4; e++) goal.v[e] = quantized(given.v[e], scale, zero);
        ((Vec<uint8_t, 4> *)y)[i] = goal;
    }
    long long rest = vectors * 4 + first_index();
    if (rest < quantized_total) y[rest] = quantized(x[rest], scale, zero);
}
