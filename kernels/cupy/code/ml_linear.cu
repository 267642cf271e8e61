// X W^T by GROUP lanes a row. T: type of X; S: type of the sums and weights; LINES: targets of a thread.

extern "C" __global__ void linear_scores(const T *__restrict__ x, const S *__restrict__ weights,
                                         double *__restrict__ scores, long long rows, long long features,
                                         long long targets) {
    long long row = first_index() / GROUP;
    int lane = threadIdx.x % GROUP, begin = blockIdx.y * LINES;
    int count = row < rows ? int(features) : 0, lines = min(LINES, int(targets) - begin);
    S sums[LINES];
#pragma unroll
    for (int k = 0; k < LINES; k++) sums[k] = S(0);
#pragma unroll 4
    for (int i = lane; i < count; i += GROUP) {
        S value = S(x[row * features + i]);
#pragma unroll
        for (int k = 0; k < LINES; k++)
            if (k < lines) sums[k] += value * weights[(begin + k) * features + i];
    }
#pragma unroll
    for (int k = 0; k < LINES; k++) {
        for (int offset = GROUP / 2; offset; offset >>= 1) sums[k] += __shfl_xor_sync(FULL_WARP, sums[k], offset);
        if (row < rows && lane == 0 && k < lines) scores[row * targets + begin + k] = double(sums[k]);
    }
}
