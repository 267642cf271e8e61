// Copies of boxes by blocks of threads, each of which has a number among those of its box.
// `axes` holds sizes, magics (see units.cuh), strides of the source, strides of the goal, N of each.
#include "units.cuh"

// Any strides on both sides: COUNT units for each thread, a block's width apart.
template <class T, class I, int N, int COUNT, class Axes>
__device__ __forceinline__ void copy_box(const T *x, T *y, I block, I total, const Axes &axes) {
    if ((const T *)y == x) return;  // a copy onto itself
    I first = block * I(blockDim.x * COUNT) + I(threadIdx.x);
    T held[COUNT];
    I goal[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        I n = first + I(i * blockDim.x);
        goal[i] = I(-1);
        if (n < total) {
            I rest = n, from = 0, to = 0;
#pragma unroll
            for (int d = N - 1; d > 0; d--) {
                I above = quotient(rest, axes.v[d], axes.v[N + d]);
                I at = rest - above * I(axes.v[d]);
                from += at * I(axes.v[2 * N + d]);
                to += at * I(axes.v[3 * N + d]);
                rest = above;
            }
            from += rest * I(axes.v[2 * N]);
            goal[i] = to + rest * I(axes.v[3 * N]);
            held[i] = x[from];
        }
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        if (goal[i] >= 0) y[goal[i]] = held[i];
}

// A dense goal: WIDTH neighbouring units for each thread, stored at once.
template <class T, class I, int N, int WIDTH, class Axes>
__device__ __forceinline__ void copy_dense(const T *x, T *y, I block, I total, const Axes &axes) {
    I first = (block * I(blockDim.x) + I(threadIdx.x)) * WIDTH;
    if (first >= total) return;
    const I last_size = I(axes.v[N - 1]), last_stride = I(axes.v[3 * N - 1]);
    I from = offset_of<N, I>(first, axes, 2);
    I left = total - first;
    if (N > 1) left = last_size - (first - quotient(first, axes.v[N - 1], axes.v[2 * N - 1]) * last_size);
    if (left >= WIDTH) {  // all in one line
        Vec<T, WIDTH> held;
#pragma unroll
        for (int i = 0; i < WIDTH; i++) held.v[i] = x[from + i * last_stride];
        *(Vec<T, WIDTH> *)(y + first) = held;
    } else if (first + WIDTH <= total) {
        Vec<T, WIDTH> held;
#pragma unroll
        for (int i = 0; i < WIDTH; i++) held.v[i] = x[offset_of<N, I>(first + i, axes, 2)];
        *(Vec<T, WIDTH> *)(y + first) = held;
    } else {
        for (I n = first; n < total; n++) y[n] = x[offset_of<N, I>(n, axes, 2)];
    }
}
