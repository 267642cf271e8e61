// Rows of A that every block of a product normalises for itself: in the order, and so to the bit, of `normalize_rows`.
// NORM: 0 not at all, 1 by mean and variance, 2 by mean square. NORM_THREADS: threads that have a row in
// `normalize_rows`. AVEC: elements of an access, a divisor of K. HAS_SHIFT: whether something is added at the end.
#if NORM
#define NORM_WARPS ((NORM_THREADS + WARP - 1) / WARP)

typedef Vec<T, AVEC> NormPiece;

// Adds up what `term(row, element)` gives for each row; a thread stands for all of `normalize_rows` that are congruent.
template <class Term>
__device__ __forceinline__ void sum_rows(A *totals, A (*held)[NORM_WARPS], int K, Term term) {
    int lane = threadIdx.x % WARP;
    for (int warp = threadIdx.x / WARP; warp < NORM_WARPS; warp += THREADS / WARP) {
        int thread = warp * WARP + lane;
#pragma unroll
        for (int m = 0; m < ROWS; m++) {
            A total = 0;
            for (int j = thread < NORM_THREADS ? thread * AVEC : K; j < K; j += NORM_THREADS * AVEC)
#pragma unroll
                for (int e = 0; e < AVEC; e++) total += term(m, j + e);
            total = warp_all(total, Sum());
            if (lane == 0) held[m][warp] = total;
        }
    }
    __syncthreads();
#pragma unroll
    for (int m = 0; m < ROWS; m++) {
        totals[m] = held[m][0];
        for (int w = 1; w < NORM_WARPS; w++) totals[m] += held[m][w];
    }
    __syncthreads();
}

// Fills `rows` (ROWS, K) with the normalised rows of `a`; `rows` has room for two more rows, of gains and shifts.
__device__ __forceinline__ void normalize(T *rows, const T *a, const T *gain, const T *shift, int K, double epsilon,
                                          A (*held)[NORM_WARPS]) {
    T *gains = rows + ROWS * K, *shifts = gains + K;
    for (int j = threadIdx.x * AVEC; j < K; j += THREADS * AVEC) {
#pragma unroll
        for (int m = 0; m < ROWS; m++) *(NormPiece *)(rows + m * K + j) = *(const NormPiece *)(a + m * K + j);
        *(NormPiece *)(gains + j) = *(const NormPiece *)(gain + j);
        if (HAS_SHIFT) *(NormPiece *)(shifts + j) = *(const NormPiece *)(shift + j);
    }
    __syncthreads();
    A means[ROWS] = {}, factors[ROWS];
    if (NORM == 1) {
        sum_rows(means, held, K, [&](int m, int j) { return A(widen(rows[m * K + j])); });
#pragma unroll
        for (int m = 0; m < ROWS; m++) means[m] = means[m] / A(K);
    }
    sum_rows(factors, held, K, [&](int m, int j) {
        A off = A(widen(rows[m * K + j])) - means[m];
        return off * off;
    });
#pragma unroll
    for (int m = 0; m < ROWS; m++) factors[m] = A(1) / sqrtf(factors[m] / A(K) + A(epsilon));
    for (int j = threadIdx.x * AVEC; j < K; j += THREADS * AVEC) {
#pragma unroll
        for (int m = 0; m < ROWS; m++) {
            NormPiece held_row = *(NormPiece *)(rows + m * K + j);
#pragma unroll
            for (int e = 0; e < AVEC; e++) {
                A result = widen(narrow<T>((A(widen(held_row.v[e])) - means[m]) * factors[m]));
                result *= widen(gains[j + e]);
                if (HAS_SHIFT) result += widen(shifts[j + e]);
                held_row.v[e] = narrow<T>(result);
            }
            *(NormPiece *)(rows + m * K + j) = held_row;
        }
    }
    __syncthreads();
}
#endif
