// Support vector machines in float64. T: type of X; KERNEL: 0 linear, 1 polynomial, 2 radial, 3 sigmoid;
// PROBABLE: whether pairs become probabilities of classes; HAS_LABELS.
#define ROWS 4

// The kernel of each row with each support vector; vectors lie feature by feature, a thread has one and ROWS rows.
extern "C" __global__ void svm_kernel(const T *__restrict__ x, const double *__restrict__ vectors,
                                      double *__restrict__ products, long long rows, long long features,
                                      long long count, double gamma, double coef0, double degree) {
    long long vector = first_index(), row = blockIdx.y * (long long)ROWS;
    if (vector >= count) return;
    int most = int(min((long long)ROWS, rows - row));
    double sums[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) sums[r] = 0.0;
    for (long long f = 0; f < features; f++) {
        double other = vectors[f * count + vector];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (r >= most) continue;
            double value = double(x[(row + r) * features + f]);
            sums[r] += KERNEL == 2 ? (value - other) * (value - other) : value * other;
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (r >= most) continue;
        double sum = sums[r];
        if (KERNEL == 1) sum = pow(gamma * sum + coef0, degree);
        if (KERNEL == 2) sum = exp(-gamma * sum);
        if (KERNEL == 3) sum = tanh(gamma * sum + coef0);
        products[(row + r) * count + vector] = sum;
    }
}

// What the vectors of each class say by each line of coefficients: (rows, classes, lines), a warp for each.
extern "C" __global__ void svm_sums(const double *__restrict__ products, const double *__restrict__ coefficients,
                                    const int64_t *__restrict__ starts, double *__restrict__ parts, long long rows,
                                    long long count, long long classes, long long lines) {
    long long at = first_index() / WARP, group = at / lines, line = at - group * lines;
    long long row = group / classes, which = group - row * classes;
    bool is_there = row < rows;
    double sum = 0.0;
    long long end = is_there ? starts[which + 1] : 0;
    for (long long i = (is_there ? starts[which] : 0) + threadIdx.x % WARP; i < end; i += WARP)
        sum += products[row * count + i] * coefficients[line * count + i];
    sum = warp_all(sum, Sum());
    if (is_there && threadIdx.x % WARP == 0) parts[at] = sum;
}

__device__ __forceinline__ double win_of(double x) {
    double tail = exp(-fabs(x)), wins = (x < 0 ? tail : 1.0) / (1.0 + tail);
    return wins < 1e-7 ? 1e-7 : wins > 1.0 - 1e-7 ? 1.0 - 1e-7 : wins;
}

// Wu, Lin and Weng (2004), second method: class probabilities p from the matrix q of the pairs.
__device__ __forceinline__ void couple(double *p, const double *q, double *qp, int classes) {
    for (int c = 0; c < classes; c++) p[c] = 1.0 / classes;
    for (int round = 0; round < max(100, classes); round++) {
        double pqp = 0.0, worst = 0.0;
        for (int i = 0; i < classes; i++) {
            double total = 0.0;
            for (int j = 0; j < classes; j++) total += q[i * classes + j] * p[j];
            qp[i] = total;
            pqp += p[i] * total;
        }
        for (int i = 0; i < classes; i++) worst = fmax(worst, fabs(qp[i] - pqp));
        if (!(worst >= 0.005 / classes)) break;
        for (int c = 0; c < classes; c++) {
            double own = q[c * classes + c], delta = (pqp - qp[c]) / own;
            p[c] += delta;
            pqp = (pqp + delta * (delta * own + 2.0 * qp[c])) / ((1.0 + delta) * (1.0 + delta));
            for (int j = 0; j < classes; j++) {
                qp[j] = (qp[j] + delta * q[j * classes + c]) / (1.0 + delta);
                p[j] /= 1.0 + delta;
            }
        }
    }
}

// Scores of the pairs of classes, the class with most wins, perhaps probabilities; a thread has a row and
// classes * classes + 2 * classes places of `memory`.
extern "C" __global__ void svm_pairs(const double *__restrict__ parts, const double *__restrict__ rho,
                                     const double *__restrict__ prob_a, const double *__restrict__ prob_b,
                                     const int64_t *__restrict__ labels, int64_t *__restrict__ label, double *memory,
                                     double *__restrict__ scores, long long rows, long long class_count) {
    long long row = first_index();
    if (row >= rows) return;
    int classes = int(class_count), pairs = classes * (classes - 1) / 2, pair = 0;
    double *votes = memory + row * (classes * classes + 2 * classes), *qp = votes + classes, *q = qp + classes;
    const double *own = parts + row * classes * (classes - 1);
    for (int c = 0; c < classes; c++) votes[c] = q[c * classes + c] = 0.0;
    for (int i = 0; i < classes; i++) {
        for (int j = i + 1; j < classes; j++, pair++) {
            double score = own[i * (classes - 1) + j - 1] + own[j * (classes - 1) + i] + rho[pair];
            votes[score > 0 ? i : j] += 1.0;
            if (PROBABLE) {
                double wins = win_of(-(score * prob_a[pair] + prob_b[pair]));
                q[i * classes + j] = q[j * classes + i] = -wins * (1.0 - wins);
                q[i * classes + i] += (1.0 - wins) * (1.0 - wins);
                q[j * classes + j] += wins * wins;
            } else {
                scores[row * pairs + pair] = score;
            }
        }
    }
    if (HAS_LABELS) {
        int best = 0;
        for (int c = 1; c < classes; c++)
            if (votes[c] > votes[best]) best = c;
        label[row] = labels[best];
    }
    if (PROBABLE) couple(scores + row * classes, q, qp, classes);
}

// Inside or outside of the one class.
extern "C" __global__ void one_class(const double *__restrict__ sums, float *__restrict__ y, long long rows,
                                     double rho) {
    long long row = first_index();
    if (row < rows) y[row] = sums[row] + rho > 0.0 ? 1.0f : -1.0f;
}
