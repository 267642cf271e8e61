// Scaling, replacing, thresholding and joining of features. T: type of the input.
// The magics of sizes are those of units.cuh; INDEX: type of indices.
#include "units.cuh"

__device__ __forceinline__ INDEX remainder_of(INDEX n, long long size, long long factor) {
    return n - quotient(n, size, factor) * INDEX(size);
}

// Elements of a thread are a block's width apart: loads are whole lines, several of them on their way.
#define ITEMS 4
#define EACH_ELEMENT(n)                                                                             \
    _Pragma("unroll") for (INDEX item = 0, n = INDEX(blockIdx.x) * INDEX(blockDim.x * ITEMS) + INDEX(threadIdx.x); \
                           item < ITEMS; item++, n += INDEX(blockDim.x))                            \
        if (n < INDEX(total))

// (x - offset) * scale, per feature, in W.
extern "C" __global__ void scaler(const T *__restrict__ x, float *__restrict__ y, const W *__restrict__ offset,
                                  const W *__restrict__ scale, long long total, long long features, long long factor) {
    EACH_ELEMENT(n) {
        INDEX feature = remainder_of(n, features, factor);
        y[n] = float((W(x[n]) - offset[feature]) * scale[feature]);
    }
}

// IS_NAN: whether NaN is what is replaced.
extern "C" __global__ void imputer(const T *__restrict__ x, T *__restrict__ y, const T *__restrict__ values,
                                   const T *__restrict__ replaced, long long total, long long features,
                                   long long factor) {
    T wanted = *replaced;
    EACH_ELEMENT(n) {
        T value = x[n];
        y[n] = (IS_NAN ? value != value : value == wanted) ? values[remainder_of(n, features, factor)] : value;
    }
}

extern "C" __global__ void binarizer(const T *__restrict__ x, T *__restrict__ y, const T *__restrict__ threshold,
                                     long long total) {
    T limit = *threshold;
    EACH_ELEMENT(n) y[n] = x[n] > limit ? T(1) : T(0);
}

// One input into its columns of the goal: the first `taken` of each row, and zeros up to `filled`.
extern "C" __global__ void feature_columns(const T *__restrict__ x, float *__restrict__ y, long long total,
                                           long long columns, long long taken, long long filled, long long factor,
                                           long long width) {
    EACH_ELEMENT(n) {
        INDEX row = quotient(n, filled, factor), column = n - row * INDEX(filled);
        y[row * INDEX(width) + column] = column < INDEX(taken) ? float(x[row * INDEX(columns) + column]) : 0.0f;
    }
}

// x over the norm of its row, NORM: 0 largest, 1 sum of sizes, 2 root of the sum of squares; GROUP lanes a row.
extern "C" __global__ void normalizer(const T *__restrict__ x, float *__restrict__ y, long long rows,
                                      long long columns) {
    long long row = first_index() / GROUP;
    int lane = threadIdx.x % GROUP, count = row < rows ? int(columns) : 0;
    const T *source = x + row * columns;
    double norm = NORM == 0 ? -INFINITY : 0.0;
    for (int i = lane; i < count; i += GROUP) {
        double value = double(source[i]);
        if (NORM == 0) norm = max_nan(norm, value);
        if (NORM == 1) norm += fabs(value);
        if (NORM == 2) norm += value * value;
    }
    for (int offset = GROUP / 2; offset; offset >>= 1) {
        double other = __shfl_xor_sync(FULL_WARP, norm, offset);
        norm = NORM == 0 ? max_nan(norm, other) : norm + other;
    }
    if (NORM == 2) norm = sqrt(norm);
    if (norm == 0.0) norm = 1.0;
    for (int i = lane; i < count; i += GROUP) y[row * columns + i] = float(double(source[i]) / norm);
}
