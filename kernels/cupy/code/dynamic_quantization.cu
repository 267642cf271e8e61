// DynamicQuantizeLinear of float32 to uint8: the extremes, found by many blocks, then all the rest.
// ALONE: whether one block finds the extremes itself.
#include "extremes.cuh"

extern "C" __global__ void dynamic_quantize(const float *__restrict__ x, const float *__restrict__ parts,
                                            uint8_t *__restrict__ y, float *__restrict__ scale_goal,
                                            uint8_t *__restrict__ zero_goal, long long total, long long count,
                                            long long quantized_total) {
    __shared__ float held[32];
    Extremes found = ALONE ? extremes_of(x, total, threadIdx.x, blockDim.x) : extremes_of_parts(parts, count);
    found = of_block(found, held);
    float scale = scale_of(found), zero = zero_of(found, scale);
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
