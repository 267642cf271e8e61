// Results and labels of rows of raw scores in float64: base values, post transforms, the class that wins.
// SCORE: type that scores are rounded to; OUT: type of the results; HAS_LABELS; MAY_BE_EMPTY: whether NaN stands
// for a score without any vote; TRANSFORM: 0 none, 1 softmax, 2 logistic, 3 softmax of what is not zero, 4 probit.

__device__ __forceinline__ double rounded(double value) { return double(SCORE(value)); }

__device__ __forceinline__ double sigmoid_of(double x) {
    double tail = exp(-fabs(x));
    return (x < 0 ? tail : 1.0) / (1.0 + tail);
}

// The normal quantile by Winitzki's closed form.
__device__ __forceinline__ double probit_of(double p) {
    const double pi = 3.141592653589793, a = 0.147;
    double x = 2.0 * p - 1.0, l = log((1.0 - x) * (1.0 + x)), v = 2.0 / (pi * a) + l / 2.0;
    return copysign(sqrt(sqrt(v * v - l / a) - v) * 1.4142135623730951, x);
}

__device__ __forceinline__ void transform_row(double *row, int count) {
    if (TRANSFORM == 2 || TRANSFORM == 4) {
        for (int i = 0; i < count; i++) row[i] = TRANSFORM == 2 ? sigmoid_of(row[i]) : probit_of(row[i]);
    } else if (TRANSFORM == 1 || TRANSFORM == 3) {
        double peak = row[0], total = 0.0;
        for (int i = 1; i < count; i++) peak = max_nan(peak, row[i]);
        double scale = exp(-peak);
        for (int i = 0; i < count; i++) {
            bool is_kept = TRANSFORM == 1 || fabs(row[i]) > 1e-7;
            row[i] = is_kept ? exp(row[i] - peak) : row[i] * scale;
            total += is_kept ? row[i] : 0.0;
        }
        for (int i = 0; i < count; i++) row[i] /= total;
    }
}

// As argmax: the first of the largest, NaN before all.
__device__ __forceinline__ int first_of_highest(const double *row, int count) {
    int best = 0;
    for (int i = 1; i < count; i++)
        if (row[i] > row[best] || (row[i] != row[i] && row[best] == row[best])) best = i;
    return best;
}

// A thread has a row, `held` a place for each result. `before`: what goes before a single score, 1 one minus it,
// 2 its negative; `by_sign`: whether the single score's sign is the label.
extern "C" __global__ void finish(const double *scores, double *held, long long rows, long long stride,
                                  long long count, double divisor, const double *__restrict__ base, long long before,
                                  long long by_sign, const int64_t *__restrict__ labels, int64_t *__restrict__ label,
                                  OUT *__restrict__ y) {
    long long at = first_index();
    if (at >= rows) return;
    int width = int(count) + (before ? 1 : 0);
    double *row = held + at * width;
    for (int k = 0; k < int(count); k++) {
        double score = scores[at * stride + k];
        if (MAY_BE_EMPTY && score != score) score = 0.0;
        row[before ? 1 : k] = rounded(score / divisor + base[k]);
    }
    if (before) row[0] = before == 1 ? rounded(1.0 - row[1]) : -row[1];
    if (HAS_LABELS) label[at] = labels[by_sign ? int(row[width - 1] > 0.0) : first_of_highest(row, width)];
    transform_row(row, width);
    for (int k = 0; k < width; k++) y[at * width + k] = narrow<OUT>(SCORE(row[k]));
}
