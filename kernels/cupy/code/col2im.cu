// Col2Im: each element of an image is the sum of those columns' elements that came from it.
// T: element type; W: type to sum in; RANK: spatial axes.
// `axes`: image, block, windows, strides, dilations, padding before: RANK of each.

extern "C" __global__ void col2im(
    const T *__restrict__ x, T *__restrict__ y, long long total, Ints<6 * RANK> axes) {
    long long n = first_index();
    if (n >= total) return;
    long long at[RANK], rest = n, blocks = 1, windows = 1;
#pragma unroll
    for (int d = RANK - 1; d >= 0; d--) {
        at[d] = rest % axes.v[d] + axes.v[5 * RANK + d];
        rest /= axes.v[d];
        blocks *= axes.v[RANK + d];
        windows *= axes.v[2 * RANK + d];
    }
    const T *from = x + rest * blocks * windows;
    W sum = 0;
    for (long long b = 0; b < blocks; b++) {
        long long left = b, place = 0, step = 1;
        bool meets = true;
#pragma unroll
        for (int d = RANK - 1; d >= 0; d--) {
            long long begin = at[d] - left % axes.v[RANK + d] * axes.v[4 * RANK + d];
            left /= axes.v[RANK + d];
            long long window = begin / axes.v[3 * RANK + d];
            meets &= begin >= 0 && window * axes.v[3 * RANK + d] == begin && window < axes.v[2 * RANK + d];
            place += window * step;
            step *= axes.v[2 * RANK + d];
        }
        if (meets) sum += W(widen(from[b * windows + place]));
    }
    y[n] = narrow<T>(sum);
}
