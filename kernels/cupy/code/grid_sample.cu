// GridSample: values of an image at points given in [-1, 1]; each thread has a point and CHANNELS channels.
// T: element type; W: type to sum in; G: element type of the grid, P: type of positions; RANK: spatial axes;
// MODE: 0 nearest, 1 linear, 2 cubic; PADDING: 0 zeros, 1 border, 2 reflection; ALIGN: of corners.
// `axes`: spatial extents of the image.

#define TAPS (MODE == 0 ? 1 : 2 * MODE)

struct Axis {
    int place[TAPS];  // -1: outside
    P weight[TAPS];
};

__device__ __forceinline__ P padded(P position, long long length) {
    P last = P(length - 1);
    if (PADDING == 0) return position < P(-3) ? P(-3) : position > P(length + 2) ? P(length + 2) : position;
    if (PADDING == 1) return position < P(0) ? P(0) : position > last ? last : position;
    P low = ALIGN ? P(0) : P(-0.5), high = ALIGN ? last : last + P(0.5), span = 2 * (high - low);
    if (high == low) return 0;
    P turn = fmod(position - low, span);
    turn = turn < 0 ? turn + span : turn;
    return low + (span - turn < turn ? span - turn : turn);
}

__device__ __forceinline__ P weight_at(P distance) {
    P d = fabs(distance);
    if (MODE == 1) return d < 1 ? 1 - d : d != d ? d : P(0);
    const P a = P(-0.75);
    P near = ((a + 2) * d - (a + 3)) * d * d + 1, far = ((d - 5) * d + 8) * d * a - 4 * a;
    return d <= 1 ? near : d < 2 ? far : P(0);  // 0 for NaN, as in the reference
}

__device__ __forceinline__ void find(Axis &axis, P grid, long long length) {
    // Each step is rounded on its own, as the reference does: nearest must not see another half.
    P shifted = grid + 1;
    P position = ALIGN ? P(double(shifted / 2) * double(length - 1)) : (P(double(shifted) * double(length)) - 1) / 2;
    if (MODE == 0) position = rint(position);
    position = padded(position, length);
#pragma unroll
    for (int t = 0; t < TAPS; t++) {
        P index = MODE == 0 ? P(rint(position)) : P(floor(position)) + P(t + 1 - TAPS / 2);
        axis.weight[t] = MODE == 0 ? P(1) : weight_at(position - index);
        if (PADDING != 0 && MODE != 0) index = rint(padded(index, length));
        if (PADDING != 0) index = index < 0 ? P(0) : index > P(length - 1) ? P(length - 1) : index;
        bool valid = index >= 0 && index < P(length) && axis.weight[t] != 0;
        axis.place[t] = valid ? int(index) : -1;
    }
}

extern "C" __global__ void grid_sample(
    const T *__restrict__ x, const G *__restrict__ grid, T *__restrict__ y, long long points, long long each,
    long long channels, Ints<RANK> axes) {
    long long n = first_index();
    if (n >= points) return;
    long long image = n / each, point = n - image * each, plane = 1;
    Axis at[RANK];
#pragma unroll
    for (int d = 0; d < RANK; d++) {
        find(at[d], P(widen(grid[n * RANK + RANK - 1 - d])), axes.v[d]);
        plane *= axes.v[d];
    }
    long long first = blockIdx.y * (long long)CHANNELS;
    long long last = first + CHANNELS < channels ? first + CHANNELS : channels;
    for (long long c = first; c < last; c++) {
        const T *from = x + (image * channels + c) * plane;
        T *to = y + (image * channels + c) * each + point;
#if MODE == 0
        bool valid = true;
        long long place = 0;
        for (int d = 0; d < RANK; d++) {
            valid &= at[d].place[0] >= 0;
            place = place * axes.v[d] + at[d].place[0];
        }
        T value = T();
        if (valid) value = from[place];
        *to = value;
#else
        W sum = 0;
#if RANK == 3
        for (int s = 0; s < TAPS; s++)
#endif
#pragma unroll
        for (int t = 0; t < TAPS; t++)
#if RANK > 1
#pragma unroll
        for (int u = 0; u < TAPS; u++)
#endif
        {
#if RANK == 1
            bool valid = at[0].place[t] >= 0;
            long long place = at[0].place[t];
            P weight = at[0].weight[t];
#elif RANK == 2
            bool valid = at[0].place[t] >= 0 && at[1].place[u] >= 0;
            long long place = at[0].place[t] * axes.v[1] + at[1].place[u];
            P weight = at[0].weight[t] * at[1].weight[u];
#else
            bool valid = at[0].place[s] >= 0 && at[1].place[t] >= 0 && at[2].place[u] >= 0;
            long long place = (at[0].place[s] * axes.v[1] + at[1].place[t]) * axes.v[2] + at[2].place[u];
            P weight = at[0].weight[s] * at[1].weight[t] * at[2].weight[u];
#endif
            W value = 0;
            if (valid) value = W(widen(from[place]));
            sum += value * W(weight);
        }
        *to = narrow<T>(sum);
#endif
    }
}
