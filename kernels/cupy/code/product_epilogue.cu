// What a library's product leaves to do, in place: y = activation(y + beta * bias + residual).
// T: element type; VEC: elements of a thread, a divisor of N.
#include "product.cuh"

typedef Wide<T>::type A;

extern "C" __global__ void __launch_bounds__(256)
product_epilogue(T *__restrict__ y, const T *__restrict__ bias, const T *__restrict__ residual, long long count,
                 long long M, long long N, long long bias_matrix, long long bias_row, long long bias_column,
                 FACTOR scale, FACTOR beta, double alpha, double act_beta) {
    long long at = first_index() * VEC;
    if (at >= count) return;
    Vec<T, VEC> piece = *reinterpret_cast<const Vec<T, VEC> *>(y + at);
    long long at_bias = 0;
    if (bias) {
        long long row = at / N;
        at_bias = row / M * bias_matrix + row % M * bias_row + at % N * bias_column;
    }
    Addends addends = {bias, residual, scale, beta, alpha, act_beta};
#pragma unroll
    for (int v = 0; v < VEC; v++)
        piece.v[v] = addends.finish(A(widen(piece.v[v])), at_bias + v * bias_column, at + v);
    *reinterpret_cast<Vec<T, VEC> *>(y + at) = piece;
}
