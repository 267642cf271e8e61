// One step of an optimizer. ELEMENT: type of the tensors; RATE: of the learning rate; KIND: 0 Adagrad, 1 Adam,
// 2 Momentum, 3 Nesterov. Each operation is rounded on its own, as the reference's are.
// `a` to `e` by kind: Adagrad decay, epsilon, norm; Adam alpha, beta, epsilon, norm, norm_post;
// Momentum alpha, beta, norm.
#include "elementwise.cuh"

__device__ __forceinline__ ELEMENT root(ELEMENT x) {
    return sizeof(ELEMENT) == 4 ? ELEMENT(sqrtf(float(x))) : ELEMENT(sqrt(double(x)));
}

extern "C" __global__ void optimize(const RATE *__restrict__ rate_at, const int64_t *__restrict__ count_at,
                                    const ELEMENT *__restrict__ x, const ELEMENT *__restrict__ gradient,
                                    const ELEMENT *__restrict__ first, const ELEMENT *__restrict__ second,
                                    ELEMENT *__restrict__ new_x, ELEMENT *__restrict__ new_first,
                                    ELEMENT *__restrict__ new_second, long long total, double a, double b, double c,
                                    double d, double e) {
    __shared__ double shared_rate;
    if (threadIdx.x == 0) {
        double rate = double(*rate_at), count = double(*count_at);
        if (KIND == 0) rate = rate / (1.0 + multiply(count, a));
        if (KIND == 1 && count > 0.0) rate = multiply(rate, sqrt(1.0 - pow(b, count))) / (1.0 - pow(a, count));
        shared_rate = rate;
    }
    __syncthreads();
    ELEMENT rate = ELEMENT(shared_rate);
    ELEMENT norm = ELEMENT(KIND == 0 ? c : KIND == 1 ? d : c);
    ELEMENT scale = ELEMENT(*count_at > 0 ? b : 1.0);
    for (long long i = first_index(); i < total; i += index_step()) {
        ELEMENT value = x[i], g = add(multiply(norm, value), gradient[i]), held = first[i];
        if (KIND == 0) {
            held = add(held, multiply(g, g));
            value = subtract(value, divide(multiply(rate, g), add(root(held), ELEMENT(b))));
        } else if (KIND == 1) {
            ELEMENT square = second[i];
            held = add(multiply(ELEMENT(a), held), multiply(ELEMENT(1.0 - a), g));
            square = add(multiply(ELEMENT(b), square), multiply(multiply(ELEMENT(1.0 - b), g), g));
            value = subtract(value, divide(multiply(rate, held), add(root(square), ELEMENT(c))));
            value = multiply(ELEMENT(1.0 - e), value);
            new_second[i] = square;
        } else {
            held = add(multiply(ELEMENT(a), held), multiply(scale, g));
            value = subtract(value, multiply(rate, KIND == 3 ? add(g, multiply(ELEMENT(a), held)) : held));
        }
        new_x[i] = value;
        new_first[i] = held;
    }
}
