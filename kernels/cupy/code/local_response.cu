// LRN: x / (bias + alpha sum of squares of neighbouring channels) ** beta.
// T: element type; SPECIAL: 1 where beta is 0.75; VEC: elements of one access, all of one channel or, with
// CHANNEL_LAST, of one place.
#define GROUP 0
#include "row_groups.cuh"

typedef Wide<T>::type W;

__device__ __forceinline__ float powered(float base, float exponent) { return powf(base, exponent); }
__device__ __forceinline__ double powered(double base, double exponent) { return pow(base, exponent); }
__device__ __forceinline__ float root(float value) { return sqrtf(value); }
__device__ __forceinline__ double root(double value) { return sqrt(value); }

// `pitch`: from a channel to the next; `before`, `after`: neighbours that count.
extern "C" __global__ void local_response(const T *__restrict__ x, T *__restrict__ y, long long size,
                                          long long channels, long long pitch, long long before,
                                          long long after, double alpha, double bias, double beta) {
    long long at = first_index() * VEC;
    if (at >= size) return;
    int channel = int(remainder_of(quotient(at, pitch), channels));
    W sum[VEC];
    Vec<T, VEC> own = *(const Vec<T, VEC> *)(x + at), given = own;
    if (CHANNEL_LAST) {
#pragma unroll
        for (int e = 0; e < VEC; e++) {
            int low = max(0, channel + e - int(before));
            int high = min(int(channels) - 1, channel + e + int(after));
            sum[e] = 0;
            for (int c = low; c <= high; c++) {
                W value = widen(x[at - channel + c]);
                sum[e] += value * value;
            }
        }
    } else {
        int low = max(0, channel - int(before)), high = min(int(channels) - 1, channel + int(after));
#pragma unroll
        for (int e = 0; e < VEC; e++) sum[e] = 0;
        for (int c = low; c <= high; c++) {
            given = *(const Vec<T, VEC> *)(x + at + (c - channel) * pitch);
#pragma unroll
            for (int e = 0; e < VEC; e++) sum[e] += widen(given.v[e]) * widen(given.v[e]);
        }
    }
#pragma unroll
    for (int e = 0; e < VEC; e++) {
        W base = W(bias) + W(alpha) * sum[e];
        // base ** 0.75
        W power = SPECIAL ? root(base) * root(root(base)) : powered(base, W(beta));
        own.v[e] = narrow<T>(widen(own.v[e]) / power);
    }
    *(Vec<T, VEC> *)(y + at) = own;
}
