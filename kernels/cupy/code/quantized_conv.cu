// Convolutions of 8-bit integers in groups, from the definition: sums of (x - x_zero) (w - w_zero) in int32, modulo
// 2**32, and what is made of them. Padding holds x_zero: it adds nothing.
// X, W: element types; OUT: the result's; KIND: 0 the sum, 2 quantized in float64, with RELU not below y_zero; SCALE:
// type of the scales; LAST: whether x and y lie with the channels last; FOUR: input channels at a time (dp4a): 4 where
// those of a group are neighbours and whole fours, else 1; INDEX: of the threads.

__device__ __forceinline__ INDEX taken(INDEX &at, INDEX extent) {
    INDEX rest = at / extent, place = at - rest * extent;
    at = rest;
    return place;
}

// Four bytes as signed ones: unsigned ones less 128.
template <class T> __device__ __forceinline__ int four(const T *from) {
    int word = *reinterpret_cast<const int *>(from);
    return T(-1) < T(0) ? word : word ^ int(0x80808080u);
}

template <class T> __device__ __forceinline__ int shift() { return T(-1) < T(0) ? 0 : 128; }

// Scales and zero points of w: one each, or one for each output channel (steps of 1). w: (M, taps, C / groups).
extern "C" __global__ void __launch_bounds__(256)
integer_direct(const X *__restrict__ x, const W *__restrict__ w, OUT *__restrict__ y, const X *x_zero, const W *w_zero,
               const SCALE *x_scale, const SCALE *w_scale, const SCALE *y_scale, const OUT *y_zero,
               const int32_t *bias, long long count, long long channels, long long depth, long long per_group,
               long long zero_step, long long scale_step, Ints<3> size, Ints<3> out, Ints<3> kernel,
               Ints<3> strides, Ints<3> dilations, Ints<3> begins, Ints<5> x_strides) {
    long long index = first_index();
    if (index >= count) return;
    INDEX at = INDEX(index), m = 0;
    if (LAST) m = taken(at, INDEX(channels));
    int o2 = int(taken(at, INDEX(out.v[2]))), o1 = int(taken(at, INDEX(out.v[1]))), o0 = int(taken(at, INDEX(out.v[0])));
    if (!LAST) m = taken(at, INDEX(channels));
    int zero_x = x_zero ? int(*x_zero) : 0, zero_w = w_zero ? int(w_zero[m * zero_step]) : 0;
    long long taps = kernel.v[0] * kernel.v[1] * kernel.v[2];
    const X *image = x + at * x_strides.v[0] + m / INDEX(per_group) * depth * x_strides.v[1];
    const W *weights = w + m * taps * depth;
    uint32_t sum = 0, x_sum = 0, w_sum = 0;
    uint32_t visited = 0;
    for (int k0 = 0; k0 < int(kernel.v[0]); k0++) {
        int i0 = o0 * int(strides.v[0]) + k0 * int(dilations.v[0]) - int(begins.v[0]);
        if (unsigned(i0) >= unsigned(size.v[0])) continue;
        for (int k1 = 0; k1 < int(kernel.v[1]); k1++) {
            int i1 = o1 * int(strides.v[1]) + k1 * int(dilations.v[1]) - int(begins.v[1]);
            if (unsigned(i1) >= unsigned(size.v[1])) continue;
            const X *line = image + i0 * x_strides.v[2] + i1 * x_strides.v[3];
            const W *row = weights + (k0 * kernel.v[1] + k1) * kernel.v[2] * depth;
            for (int k2 = 0; k2 < int(kernel.v[2]); k2++) {
                int i2 = o2 * int(strides.v[2]) + k2 * int(dilations.v[2]) - int(begins.v[2]);
                if (unsigned(i2) >= unsigned(size.v[2])) continue;
                const X *from = line + i2 * x_strides.v[4];
                const W *tap = row + k2 * depth;
#if FOUR == 4
                for (int c = 0; c < int(depth); c += 4) {
                    int left = four(from + c), right = four(tap + c);
                    sum = __dp4a(left, right, int(sum));
                    x_sum = __dp4a(left, 0x01010101, int(x_sum));
                    w_sum = __dp4a(right, 0x01010101, int(w_sum));
                }
#else
                for (int c = 0; c < int(depth); c++) {
                    int left = int(from[c * x_strides.v[1]]) - shift<X>(), right = int(tap[c]) - shift<W>();
                    sum += uint32_t(left * right);
                    x_sum += uint32_t(left);
                    w_sum += uint32_t(right);
                }
#endif
                visited += uint32_t(depth);
            }
        }
    }
    uint32_t less_x = uint32_t(zero_x - shift<X>()), less_w = uint32_t(zero_w - shift<W>());
    int32_t total = int32_t(sum - less_x * w_sum - less_w * x_sum + visited * less_x * less_w);
#if KIND == 0
    y[index] = OUT(total);
#else
    double scale = double(widen(w_scale[m * scale_step])) * double(widen(*x_scale)) / double(widen(*y_scale));
    double value = (double(total) + (bias ? double(bias[m]) : 0.0)) * scale;
    value = rint(value) + double(*y_zero);
    double low = OUT(-1) < OUT(0) ? -128.0 : 0.0;
    value = value != value ? 0.0 : min(max(value, low), low + 255.0);
    OUT made = OUT(int32_t(value));
    y[index] = RELU && made < *y_zero ? *y_zero : made;
#endif
}
