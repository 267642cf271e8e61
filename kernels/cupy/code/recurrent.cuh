// One step of a recurrent cell for one hidden unit, and where its numbers lie.
// T: element type; KIND: 0 RNN, 1 GRU, 2 GRU that is linear before the reset, 3 LSTM; COUPLED: of an LSTM, whether the
// forget gate is one minus the input gate; F, G, H: numbers of the activations, see `recurrent.py`.

typedef Wide<T>::type W;

#define GATES (KIND == 0 ? 1 : KIND == 3 ? 4 : 3)

// Places in `sizes`. X_T, X_N: rows of X W^T between steps and sequences; Y_*: elements of Y between steps,
// sequences, directions; S_*: elements of states that come and go; REVERSE: bit d: direction d goes backwards.
enum { STEPS, BATCH, HIDDEN, FIRST, REVERSE, X_T, X_N, Y_T, Y_N, Y_D, S_N, S_D };
typedef Ints<12> Sizes;

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float hyperbolic(float x) { return tanhf(x); }
__device__ __forceinline__ double hyperbolic(double x) { return tanh(x); }
__device__ __forceinline__ float above_one(float x) { return expm1f(x); }
__device__ __forceinline__ double above_one(double x) { return expm1(x); }
__device__ __forceinline__ float log_of_one_more(float x) { return log1pf(x); }
__device__ __forceinline__ double log_of_one_more(double x) { return log1p(x); }
__device__ __forceinline__ W magnitude(W x) { return x < W(0) ? -x : x; }

template <int FUNCTION> __device__ __forceinline__ W activated(W x, double alpha, double beta, double limit) {
    x = min_nan(max_nan(x, W(-limit)), W(limit));
    W a = W(alpha), b = W(beta);
    switch (FUNCTION) {
        case 0: return max_nan(x, W(0));                                       // Relu
        case 1: return hyperbolic(x);                                          // Tanh
        case 2: return W(1) / (W(1) + exponential(-x));                        // Sigmoid
        case 3: return a * x + b;                                              // Affine
        case 4: return x < W(0) ? a * x : x;                                   // LeakyRelu
        case 5: return x < a ? W(0) : x;                                       // ThresholdedRelu
        case 6: return a * hyperbolic(b * x);                                  // ScaledTanh
        case 7: return min_nan(max_nan(a * x + b, W(0)), W(1));                // HardSigmoid
        case 8: return x < W(0) ? a * above_one(x) : x;                        // Elu
        case 9: return x / (W(1) + magnitude(x));                              // Softsign
        default: return max_nan(x, W(0)) + log_of_one_more(exponential(-magnitude(x)));  // Softplus
    }
}

struct Cell {
    double fa, fb, ga, gb, ha, hb, limit;
    __device__ __forceinline__ W f(W x) const { return activated<F>(x, fa, fb, limit); }
    __device__ __forceinline__ W g(W x) const { return activated<G>(x, ga, gb, limit); }
    __device__ __forceinline__ W out(W x) const { return activated<H>(x, ha, hb, limit); }
};

// The biases of a unit: those that are added to X W^T, and that of a GRU's candidate within the reset.
struct Biases { W outer[GATES], inner; };

__device__ __forceinline__ Biases biases_of(const T *b, const Sizes &sizes, long long direction, int unit) {
    Biases made = {};
    if (!b) return made;
    long long hidden = sizes.v[HIDDEN];
    b += direction * 2 * GATES * hidden + unit;
#pragma unroll
    for (int gate = 0; gate < GATES; gate++) {
        W w = widen(b[gate * hidden]), r = widen(b[(GATES + gate) * hidden]);
        bool is_inner = KIND == 2 && gate == 2;
        made.outer[gate] = is_inner ? w : w + r;
        if (is_inner) made.inner = r;
    }
    return made;
}

struct Peepholes { W i, o, f; };

__device__ __forceinline__ Peepholes peepholes_of(const T *p, const Sizes &sizes, long long direction, int unit) {
    Peepholes made = {};
#if KIND == 3
    long long hidden = sizes.v[HIDDEN];
    if (p) {
        p += direction * 3 * hidden + unit;
        made = {widen(p[0]), widen(p[hidden]), widen(p[2 * hidden])};
    }
#endif
    return made;
}

// x: X W^T with the outer biases; r: products with R. Updates the states of the unit.
__device__ __forceinline__ void advance(const Cell &cell, const W *x, const W *r, W inner, const Peepholes &p,
                                        W &h, W &c) {
#if KIND == 0
    h = cell.f(x[0] + r[0]);
#elif KIND == 3
    W i = cell.f(x[0] + r[0] + p.i * c), forget = COUPLED ? W(1) - i : cell.f(x[2] + r[2] + p.f * c);
    c = forget * c + i * cell.g(x[3] + r[3]);
    h = cell.out(c) * cell.f(x[1] + r[1] + p.o * c);
#else
    W z = cell.f(x[0] + r[0]);
#if KIND == 2
    W candidate = cell.g(x[2] + cell.f(x[1] + r[1]) * (r[2] + inner));
#else
    W candidate = cell.g(x[2] + r[2]);  // r[2]: of what the reset has left
#endif
    h = (W(1) - z) * candidate + z * h;
#endif
}

// Steps of a sequence; a wrong number is reported.
__device__ __forceinline__ long long length_of(const int *lengths, const Sizes &sizes, long long sequence,
                                               long long *fault) {
    if (!lengths) return sizes.v[STEPS];
    long long length = lengths[sequence];
    if (length < 0 || length > sizes.v[STEPS]) {
        *fault = 1;
        return 0;
    }
    return length;
}
