// Pools over windows of three axes.
// T: element type; KIND: 0 largest, 1 mean, 2 sum of magnitudes, 3 root of the sum of squares, 4 p-norm; LOWEST: the
// largest of nothing; VEC: neighbouring channels of a thread; LAST: whether tensors lie with the channels last;
// `pitch`, `goal_pitch`: elements from pixel to pixel of x and y then.
// PLACES: whether to say where the largest is; INDEX: of the threads.

typedef Wide<T>::type A;
typedef Vec<T, VEC> Pack;

// One axis of a window: the taps [begin, end) that lie in the image, where tap 0 lies, and how many count.
struct Span {
    int begin, end, first, counted;
};

__device__ __forceinline__ int above(int distance, int step) {
    return distance <= 0 ? 0 : (distance + step - 1) / step;
}

__device__ __forceinline__ Span span_of(int window, int size, int kernel, int stride, int dilation, int before,
                                        int behind, bool pads) {
    Span span;
    span.first = window * stride - before;
    span.begin = min(kernel, above(-span.first, dilation));
    span.end = max(span.begin, min(kernel, above(size - span.first, dilation)));
    span.counted = pads ? min(kernel, above(size + behind - span.first, dilation)) : span.end - span.begin;
    return span;
}

__device__ __forceinline__ INDEX taken(INDEX &at, INDEX extent) {
    INDEX rest = at / extent, place = at - rest * extent;
    at = rest;
    return place;
}

__device__ __forceinline__ A magnitude(A value) { return value < A(0) ? -value : value; }
__device__ __forceinline__ float power_of(float value, double p) { return powf(value, float(p)); }
__device__ __forceinline__ double power_of(double value, double p) { return pow(value, p); }

extern "C" __global__ void __launch_bounds__(256, 4)
pool(const T *__restrict__ x, T *__restrict__ y, int64_t *__restrict__ places, long long count, long long channels,
     long long pitch, long long goal_pitch, Ints<3> size, Ints<3> out, Ints<3> kernel, Ints<3> strides, Ints<3> dilations, Ints<3> begins, Ints<3> ends,
     long long include_pad, long long column_major, double p) {
    long long index = first_index();
    if (index >= count) return;
    INDEX at = INDEX(index), blocks = INDEX(channels) / VEC, block = 0;
    if (LAST) block = taken(at, blocks);
    Span spans[3];
#pragma unroll
    for (int axis = 2; axis >= 0; axis--)
        spans[axis] = span_of(int(taken(at, INDEX(out.v[axis]))), int(size.v[axis]), int(kernel.v[axis]),
                              int(strides.v[axis]), int(dilations.v[axis]), int(begins.v[axis]),
                              int(ends.v[axis]), include_pad != 0);
    // `at` is the image, of one channel where the channels are not last.
    long long area = size.v[0] * size.v[1] * size.v[2], step = LAST ? pitch : 1;
    const T *image = x + at * area * step + (long long)block * VEC;
    A held[VEC];
#if PLACES
    long long found[VEC];
#endif
#pragma unroll
    for (int e = 0; e < VEC; e++) {
        held[e] = KIND == 0 ? A(LOWEST) : A(0);
#if PLACES
        found[e] = -1;
#endif
    }
    for (int k0 = spans[0].begin; k0 < spans[0].end; k0++) {
        long long i0 = spans[0].first + k0 * dilations.v[0];
        for (int k1 = spans[1].begin; k1 < spans[1].end; k1++) {
            long long i1 = spans[1].first + k1 * dilations.v[1];
            const T *line = image + (i0 * size.v[1] + i1) * size.v[2] * step;
            int i2 = spans[2].first + spans[2].begin * int(dilations.v[2]);
#pragma unroll 4
            for (int k2 = spans[2].begin; k2 < spans[2].end; k2++, i2 += int(dilations.v[2])) {
                Pack given = *reinterpret_cast<const Pack *>(line + i2 * step);
#pragma unroll
                for (int e = 0; e < VEC; e++) {
                    A value = widen(given.v[e]);
#if KIND == 0
#if PLACES
                    bool wins = found[e] < 0 || value > held[e] || (value != value && held[e] == held[e]);
                    if (!wins) continue;
                    found[e] = column_major ? (i2 * size.v[1] + i1) * size.v[0] + i0
                                            : (i0 * size.v[1] + i1) * size.v[2] + i2;
                    held[e] = value;
#else
                    held[e] = max_nan(held[e], value);
#endif
#elif KIND == 1
                    held[e] += value;
#elif KIND == 2
                    held[e] += magnitude(value);
#elif KIND == 3
                    held[e] += value * value;
#else
                    held[e] += power_of(magnitude(value), p);
#endif
                }
            }
        }
    }
    Pack made;
    long long counted = (long long)spans[0].counted * spans[1].counted * spans[2].counted;
#pragma unroll
    for (int e = 0; e < VEC; e++) {
        A value = held[e];
#if KIND == 1
        value = value / A(counted);
#elif KIND == 3
        value = A(sqrt(value));
#elif KIND == 4
        value = power_of(value, 1 / p);
#endif
        made.v[e] = narrow<T>(value);
    }
    long long goal = index * VEC;
    if (LAST) goal += INDEX(index) / blocks * (goal_pitch - channels);
    *reinterpret_cast<Pack *>(y + goal) = made;
#if PLACES
#pragma unroll
    for (int e = 0; e < VEC; e++)
        places[index * VEC + e] = found[e] < 0 ? -1 : (LAST ? at * channels + block * VEC + e : at) * area + found[e];
#endif
}
