// What a library's product leaves to do, in place: y = activation(y + beta * bias + residual).
// T: element type; VEC: elements of a thread, a divisor of N; gaps: elements between the rows of y, of the residual.
#include "product.cuh"

typedef Wide<T>::type A;

extern "C" __global__ void __launch_bounds__(256)
product_epilogue(T *__restrict__ y, const T *__restrict__ bias, const T *__restrict__ residual, long long count,
                 long long M, long long N, long long bias_matrix, long long bias_row, long long bias_column,
                 long long gap, long long residual_gap, FACTOR scale, FACTOR beta, double alpha, double act_beta) {
    long long at = first_index() * VEC;
    if (at >= count) return;
    long long at_bias = 0, added = at;
    if (bias || gap || residual_gap) {
        long long row = at / N, column = at - row * N;
        at_bias = row / M * bias_matrix + row % M * bias_row + column * bias_column;
        added += row * residual_gap;
        at += row * gap;
    }
    Vec<T, VEC> piece = *reinterpret_cast<const Vec<T, VEC> *>(y + at);
    Addends addends = {bias, residual, scale, beta, alpha, act_beta};
#pragma unroll
    for (int v = 0; v < VEC; v++)
        piece.v[v] = addends.finish(A(widen(piece.v[v])), at_bias + v * bias_column, added + v);
    *reinterpret_cast<Vec<T, VEC> *>(y + at) = piece;
}
