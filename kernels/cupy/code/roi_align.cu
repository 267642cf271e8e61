// RoiAlign: bins over regions of an image, each the mean or the maximum of bilinear samples; one bin a thread.
// T: element type; W: type to compute in; B: type of the batch indices; IS_MAX, HALF_PIXEL: attributes.
// `axes`: images, channels, height, width, bins down, bins along; `ratio`: samples of a bin, 0: by its size.

struct Pair {
    long long place[2];
    W weight[2];
};

__device__ __forceinline__ Pair neighbours(W place, long long size) {
    bool outside = place < -1 || place > W(size);
    place = place < 0 ? W(0) : place > W(size - 1) ? W(size - 1) : place;
    long long low = (long long)place;
    W part = place - W(low);
    return {{low, low + 1 < size ? low + 1 : size - 1}, {outside ? W(0) : 1 - part, outside ? W(0) : part}};
}

extern "C" __global__ void roi_align(
    const T *__restrict__ x, const T *__restrict__ rois, const B *__restrict__ images, T *__restrict__ y,
    long long *fault, long long total, Ints<6> axes, long long ratio, double scale) {
    long long n = first_index();
    if (n >= total) return;
    long long column = n % axes.v[5], rest = n / axes.v[5];
    long long row = rest % axes.v[4];
    rest /= axes.v[4];
    long long channel = rest % axes.v[1], roi = rest / axes.v[1];
    W corner[4];
    bool good = true;
    for (int i = 0; i < 4; i++) {
        corner[i] = W(widen(rois[roi * 4 + i])) * W(scale);
        good &= widen(rois[roi * 4 + i]) - widen(rois[roi * 4 + i]) == 0;
    }
    long long image = (long long)images[roi];
    good &= image >= 0 && image < axes.v[0];
    if (!good) {
        *fault = 1;
        y[n] = narrow<T>(W(0));
        return;
    }
    W height = corner[3] - corner[1], width = corner[2] - corner[0];
    W top = corner[1], left = corner[0];
    if (HALF_PIXEL) {
        top -= W(0.5);
        left -= W(0.5);
    } else {
        height = height < 1 ? W(1) : height;
        width = width < 1 ? W(1) : width;
    }
    height /= W(axes.v[4]);
    width /= W(axes.v[5]);
    long long down = ratio ? ratio : height > 0 ? (long long)ceil(height) : 0;
    long long along = ratio ? ratio : width > 0 ? (long long)ceil(width) : 0;
    const T *from = x + (image * axes.v[1] + channel) * axes.v[2] * axes.v[3];
    W result = IS_MAX ? W(-INFINITY) : W(0);
    for (long long i = 0; i < down; i++) {
        Pair rows = neighbours(top + W(row) * height + (W(i) + W(0.5)) / W(down) * height, axes.v[2]);
        for (long long j = 0; j < along; j++) {
            Pair columns = neighbours(left + W(column) * width + (W(j) + W(0.5)) / W(along) * width, axes.v[3]);
            W sample = 0;
            for (int k = 0; k < 4; k++) {
                W value = W(widen(from[rows.place[k >> 1] * axes.v[3] + columns.place[k & 1]]));
                value *= rows.weight[k >> 1] * columns.weight[k & 1];
                if (IS_MAX) result = max_nan(result, value);
                else sample += value;
            }
            if (!IS_MAX) result += sample;
        }
    }
    if (down * along == 0) result = 0;
    else if (!IS_MAX) result /= W(down * along);
    y[n] = narrow<T>(result);
}
