// What comes after a matrix product: y = activation(scale * sum + beta * bias + residual).
// ACTIVATION: number of the activation, see `_products.py`; 0 is none. FACTOR: type of scale and beta.

// Integers are added without a sign, so that they wrap.
template <class E> struct Accumulator { typedef typename Wide<E>::type type; };
template <> struct Accumulator<int8_t> { typedef uint32_t type; };
template <> struct Accumulator<uint8_t> { typedef uint32_t type; };
template <> struct Accumulator<int16_t> { typedef uint32_t type; };
template <> struct Accumulator<uint16_t> { typedef uint32_t type; };
template <> struct Accumulator<int32_t> { typedef uint32_t type; };
template <> struct Accumulator<int64_t> { typedef uint64_t type; };

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float hyperbolic(float x) { return tanhf(x); }
__device__ __forceinline__ double hyperbolic(double x) { return tanh(x); }
__device__ __forceinline__ float error_complement(float x) { return erfcf(x); }
__device__ __forceinline__ double error_complement(double x) { return erfc(x); }

template <class A> __device__ __forceinline__ A activated(A x, A alpha, A beta) {
#if ACTIVATION == 1  // Relu
    return max_nan(x, A(0));
#elif ACTIVATION == 2  // Clip
    return min_nan(max_nan(x, alpha), beta);
#elif ACTIVATION == 3  // LeakyRelu
    return x < A(0) ? alpha * x : x;
#elif ACTIVATION == 4  // Sigmoid
    A e = exponential(x < A(0) ? x : -x);  // at most 1
    return (x < A(0) ? e : A(1)) / (A(1) + e);
#elif ACTIVATION == 5  // Tanh
    return hyperbolic(x);
#elif ACTIVATION == 6  // HardSigmoid
    return min_nan(max_nan(alpha * x + beta, A(0)), A(1));
#elif ACTIVATION == 7  // HardSwish
    return x * min_nan(max_nan(x / A(6) + A(0.5), A(0)), A(1));
#elif ACTIVATION == 8  // Silu
    A e = exponential(x < A(0) ? x : -x);
    return x * ((x < A(0) ? e : A(1)) / (A(1) + e));
#elif ACTIVATION == 9  // Gelu
    return A(0.5) * x * error_complement(x * A(-0.70710678118654752440));
#elif ACTIVATION == 10  // GeluTanh
    return A(0.5) * x * (A(1) + hyperbolic(A(0.79788456080286535588) * (x + A(0.044715) * x * x * x)));
#else
    return x;
#endif
}

// Where the bias of an element lies, by (matrix, row, column): strides in elements, 0 along what it is spread.
struct Addends {
    const T *bias, *residual;
    FACTOR scale, beta;
    double alpha, act_beta;

    // `at_bias`, `at`: of the element in the bias, in the residual.
    template <class A> __device__ __forceinline__ T finish(A sum, long long at_bias, long long at) const {
        A value = sum * A(scale);
        if (bias) value += A(beta) * A(widen(bias[at_bias]));
        if (residual) value += A(widen(residual[at]));
        return narrow<T>(activated(value, A(alpha), A(act_beta)));
    }
};
