// Casts element by element. FROM, TO: types of the elements; VEC: how many one access has; ITEMS: accesses of a thread.
#include "narrow_types.cuh"

extern "C" __global__ void narrow_cast(const FROM *__restrict__ x, TO *__restrict__ y, long long total) {
    long long vectors = total / VEC, first = blockIdx.x * (long long)(blockDim.x * ITEMS) + threadIdx.x;
    Vec<FROM, VEC> given[ITEMS];
#pragma unroll
    for (int i = 0; i < ITEMS; i++)
        if (first + i * blockDim.x < vectors) given[i] = ((const Vec<FROM, VEC> *)x)[first + i * blockDim.x];
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        if (first + i * blockDim.x >= vectors) continue;
        Vec<TO, VEC> goal;
#pragma unroll
        for (int e = 0; e < VEC; e++) goal.v[e] = made<TO>(plain(given[i].v[e]));
        ((Vec<TO, VEC> *)y)[first + i * blockDim.x] = goal;
    }
    long long rest = vectors * VEC + threadIdx.x;
    if (blockIdx.x == 0 && rest < total) y[rest] = made<TO>(plain(x[rest]));
}
