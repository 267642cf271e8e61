// The least and the largest of a float32 tensor and 0, and the scale and zero point of uint8 that hold them all
// (ONNX DynamicQuantizeLinear-11).
struct Extremes { float low, high; };

// Of elements a grid apart; NaN wins.
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

// Of what `count` blocks have found, pairs a block apart.
__device__ __forceinline__ Extremes extremes_of_parts(const float *parts, long long count) {
    Extremes found = {0.0f, 0.0f};
    for (int i = threadIdx.x; i < int(count); i += blockDim.x) {
        found.low = min_nan(found.low, parts[2 * i]);
        found.high = max_nan(found.high, parts[2 * i + 1]);
    }
    return found;
}

// Minimum and Maximum keep a NaN on either side.
__device__ __forceinline__ Extremes of_block(Extremes found, float *held) {
    found.low = block_all(found.low, Minimum(), held);
    found.high = block_all(found.high, Maximum(), held);
    return found;
}

__device__ __forceinline__ float scale_of(Extremes found) { return (found.high - found.low) / 255.0f; }

__device__ __forceinline__ float zero_of(Extremes found, float scale) {
    float place = rintf(min_nan(max_nan(-found.low / scale, 0.0f), 255.0f));
    return place == place ? place : 0.0f;
}

__device__ __forceinline__ uint8_t quantized(float x, float scale, float zero) {
    float q = rintf(x / scale) + zero;
    return q == q ? uint8_t(min(max(q, 0.0f), 255.0f)) : uint8_t(0);
}
