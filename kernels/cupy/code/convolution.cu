// Convolutions straight from their definition, for what no product does: groups, any type, any layout.
// T: element type; OUT: output channels of a thread, neighbours in memory and of one group where it is above 1;
// PIX: outputs of a thread along the last axis; LAST: whether y lies with the channels last; DEPTHWISE: whether each
// output channel is made of its own input channel; INDEX: of the threads.
// Axes are three, (depth, height, width); strides of tensors are in elements: n, c, then the axes; of w: m, c, taps.
#include "product.cuh"

typedef Accumulator<T>::type A;
typedef Vec<T, OUT> Pack;

// What this thread computes.
struct Place {
    long long n, m;
    int o[3];
};

// `blocks`: runs of OUT output channels; the last axis comes in runs of PIX.
__device__ __forceinline__ INDEX taken(INDEX &at, INDEX extent) {
    INDEX rest = at / extent, place = at - rest * extent;
    at = rest;
    return place;
}

__device__ __forceinline__ Place place_of(long long index, long long blocks, const Ints<3> &out) {
    Place place;
    INDEX at = INDEX(index);
    if (LAST) place.m = (long long)taken(at, INDEX(blocks)) * OUT;
    place.o[2] = int(taken(at, (INDEX(out.v[2]) + PIX - 1) / PIX)) * PIX;
    place.o[1] = int(taken(at, INDEX(out.v[1])));
    place.o[0] = int(taken(at, INDEX(out.v[0])));
    if (!LAST) place.m = (long long)taken(at, INDEX(blocks)) * OUT;
    place.n = at;
    return place;
}

__device__ __forceinline__ void finish(A (&sums)[PIX][OUT], const Place &place, T *y, const Addends &addends,
                                       const Ints<3> &out, const Ints<5> &y_strides) {
    long long at = place.n * y_strides.v[0] + place.m * y_strides.v[1] + place.o[0] * y_strides.v[2] +
                   place.o[1] * y_strides.v[3] + place.o[2] * y_strides.v[4];
#pragma unroll
    for (int p = 0; p < PIX; p++, at += y_strides.v[4]) {
        if (place.o[2] + p >= out.v[2]) break;
        Pack made;
#pragma unroll
        for (int e = 0; e < OUT; e++) made.v[e] = addends.finish(sums[p][e], place.m + e, at + e);
        *reinterpret_cast<Pack *>(y + at) = made;
    }
}

extern "C" __global__ void __launch_bounds__(256, 2)
direct(const T *__restrict__ x, const T *__restrict__ w, T *__restrict__ y, const T *__restrict__ bias,
       const T *__restrict__ residual, long long count, long long blocks, long long depth, long long per_group,
       Ints<3> size, Ints<3> out, Ints<3> kernel, Ints<3> strides, Ints<3> dilations, Ints<3> begins,
       Ints<5> x_strides, Ints<5> y_strides, Ints<5> w_strides, double alpha, double beta) {
    long long index = first_index();
    if (index >= count) return;
    Place place = place_of(index, blocks, out);
    long long first = DEPTHWISE ? place.m : int(place.m) / int(per_group) * depth;
    const T *image = x + place.n * x_strides.v[0] + first * x_strides.v[1];
    const T *weights = w + place.m * w_strides.v[0];
    int corner = place.o[2] * int(strides.v[2]) - int(begins.v[2]);
    A sums[PIX][OUT] = {};
    for (int k0 = 0; k0 < int(kernel.v[0]); k0++) {
        long long i0 = place.o[0] * strides.v[0] + k0 * dilations.v[0] - begins.v[0];
        if (i0 < 0 || i0 >= size.v[0]) continue;
        for (int k1 = 0; k1 < int(kernel.v[1]); k1++) {
            long long i1 = place.o[1] * strides.v[1] + k1 * dilations.v[1] - begins.v[1];
            if (i1 < 0 || i1 >= size.v[1]) continue;
            const T *line = image + i0 * x_strides.v[2] + i1 * x_strides.v[3];
            const T *taps = weights + k0 * w_strides.v[2] + k1 * w_strides.v[3];
            for (int k2 = 0; k2 < int(kernel.v[2]); k2++, taps += w_strides.v[4]) {
                int i2 = corner + k2 * int(dilations.v[2]);
                bool inside[PIX];
#pragma unroll
                for (int p = 0; p < PIX; p++)
                    inside[p] = unsigned(i2 + p * int(strides.v[2])) < unsigned(size.v[2]);
#pragma unroll 2
                for (int c = 0; c < int(depth); c++) {
                    Pack tap = *reinterpret_cast<const Pack *>(taps + c * w_strides.v[1]);
#pragma unroll
                    for (int p = 0; p < PIX; p++) {
                        if (!inside[p]) continue;
                        const T *from = line + (i2 + p * strides.v[2]) * x_strides.v[4] + c * x_strides.v[1];
#if DEPTHWISE
                        Pack value = *reinterpret_cast<const Pack *>(from);
#pragma unroll
                        for (int e = 0; e < OUT; e++) sums[p][e] += A(widen(value.v[e])) * A(widen(tap.v[e]));
#else
                        A value = A(widen(*from));
#pragma unroll
                        for (int e = 0; e < OUT; e++) sums[p][e] += value * A(widen(tap.v[e]));
#endif
                    }
                }
            }
        }
    }
    Addends addends = {bias, residual, FACTOR(1), FACTOR(1), alpha, beta};
    finish(sums, place, y, addends, out, y_strides);
}

// The transposed convolution: y[o] is the sum of x[i] w[k] where i * stride + k * dilation - begin is o.
// `size` is that of x, `out` that of y. w: (C, M / groups, taps), its strides c, m, taps.
extern "C" __global__ void __launch_bounds__(256, 2)
transposed(const T *__restrict__ x, const T *__restrict__ w, T *__restrict__ y, const T *__restrict__ bias,
           long long count, long long blocks, long long depth, long long per_group, Ints<3> size, Ints<3> out,
           Ints<3> kernel, Ints<3> strides, Ints<3> dilations, Ints<3> begins, Ints<5> x_strides,
           Ints<5> y_strides, Ints<5> w_strides) {
    long long index = first_index();
    if (index >= count) return;
    Place place = place_of(index, blocks, out);
    int group = int(place.m) / int(per_group);
    long long first = group * depth;
    A sums[PIX][OUT] = {};
    for (int k0 = 0; k0 < int(kernel.v[0]); k0++) {
        int i0 = place.o[0] + int(begins.v[0]) - k0 * int(dilations.v[0]);
        if (i0 < 0 || i0 % int(strides.v[0]) || i0 / int(strides.v[0]) >= int(size.v[0])) continue;
        for (int k1 = 0; k1 < int(kernel.v[1]); k1++) {
            int i1 = place.o[1] + int(begins.v[1]) - k1 * int(dilations.v[1]);
            if (i1 < 0 || i1 % int(strides.v[1]) || i1 / int(strides.v[1]) >= int(size.v[1])) continue;
            for (int k2 = 0; k2 < int(kernel.v[2]); k2++) {
#pragma unroll
                for (int p = 0; p < PIX; p++) {
                    int i2 = place.o[2] + p + int(begins.v[2]) - k2 * int(dilations.v[2]);
                    if (i2 < 0 || i2 % int(strides.v[2]) || i2 / int(strides.v[2]) >= int(size.v[2])) continue;
                    const T *from = x + place.n * x_strides.v[0] + first * x_strides.v[1] +
                                    i0 / int(strides.v[0]) * x_strides.v[2] +
                                    i1 / int(strides.v[1]) * x_strides.v[3] +
                                    i2 / int(strides.v[2]) * x_strides.v[4];
                    const T *taps = w + first * w_strides.v[0] + (place.m - group * per_group) * w_strides.v[1] +
                                    k0 * w_strides.v[2] + k1 * w_strides.v[3] + k2 * w_strides.v[4];
                    for (int c = 0; c < int(depth); c++) {
                        A value = A(widen(from[c * x_strides.v[1]]));
                        Pack tap = *reinterpret_cast<const Pack *>(taps + c * w_strides.v[0]);
#pragma unroll
                        for (int e = 0; e < OUT; e++) sums[p][e] += value * A(widen(tap.v[e]));
                    }
                }
            }
        }
    }
    Addends addends = {bias, nullptr, FACTOR(1), FACTOR(1), 0.0, 0.0};
    finish(sums, place, y, addends, out, y_strides);
}

// The sum of what the taps of a transposed convolution have brought: `rows` is (position of x, tap, M), for whole
// images; y lies with the channels last.
extern "C" __global__ void __launch_bounds__(256, 2)
col2im(const T *__restrict__ rows, T *__restrict__ y, const T *__restrict__ bias, long long count, long long blocks,
       Ints<3> size, Ints<3> out, Ints<3> kernel, Ints<3> strides, Ints<3> dilations, Ints<3> begins) {
    long long index = first_index();
    if (index >= count) return;
    Place place = place_of(index, blocks, out);
    long long channels = blocks * OUT, taps = kernel.v[0] * kernel.v[1] * kernel.v[2];
    A sums[PIX][OUT] = {};
    for (int k0 = 0; k0 < int(kernel.v[0]); k0++) {
        int i0 = place.o[0] + int(begins.v[0]) - k0 * int(dilations.v[0]);
        if (i0 < 0 || i0 % int(strides.v[0]) || i0 / int(strides.v[0]) >= int(size.v[0])) continue;
        for (int k1 = 0; k1 < int(kernel.v[1]); k1++) {
            int i1 = place.o[1] + int(begins.v[1]) - k1 * int(dilations.v[1]);
            if (i1 < 0 || i1 % int(strides.v[1]) || i1 / int(strides.v[1]) >= int(size.v[1])) continue;
            for (int k2 = 0; k2 < int(kernel.v[2]); k2++) {
                int i2 = place.o[2] + int(begins.v[2]) - k2 * int(dilations.v[2]);
                if (i2 < 0 || i2 % int(strides.v[2]) || i2 / int(strides.v[2]) >= int(size.v[2])) continue;
                long long row = place.n * size.v[0] + i0 / int(strides.v[0]);
                row = (row * size.v[1] + i1 / int(strides.v[1])) * size.v[2] + i2 / int(strides.v[2]);
                long long tap = (k0 * kernel.v[1] + k1) * kernel.v[2] + k2;
                Pack part = *reinterpret_cast<const Pack *>(rows + (row * taps + tap) * channels + place.m);
#pragma unroll
                for (int e = 0; e < OUT; e++) sums[0][e] += A(widen(part.v[e]));
            }
        }
    }
    Addends addends = {bias, nullptr, FACTOR(1), FACTOR(1), 0.0, 0.0};
    long long at = index * OUT;
    Pack made;
#pragma unroll
    for (int e = 0; e < OUT; e++) made.v[e] = addends.finish(sums[0][e], place.m + e, at + e);
    *reinterpret_cast<Pack *>(y + at) = made;
}
