// The instructions of elementwise programs, as functions of values in the type they are computed in: float for
// the types of 16 bits (rounded after each instruction), the type itself for all others.
// No multiply-add is made of one instruction's product and another one's sum.

template <class A, class B> struct IsSame { static constexpr bool value = false; };
template <class A> struct IsSame<A, A> { static constexpr bool value = true; };
template <class T> struct IsFloat { static constexpr bool value = IsSame<T, float>::value || IsSame<T, double>::value; };
template <class T> struct IsSigned { static constexpr bool value = T(-1) < T(0); };

// Unsigned integers wrap, as signed ones must too.
template <int BYTES> struct Bits { typedef uint32_t type; };
template <> struct Bits<8> { typedef uint64_t type; };

// --- arithmetic ---------------------------------------------------------------------------------------

#if defined(ONNXREF_EMULATED)
__device__ __forceinline__ float add(float x, float y) { return x + y; }
__device__ __forceinline__ double add(double x, double y) { return x + y; }
__device__ __forceinline__ float multiply(float x, float y) { return x * y; }
__device__ __forceinline__ double multiply(double x, double y) { return x * y; }
#else
__device__ __forceinline__ float add(float x, float y) { return __fadd_rn(x, y); }
__device__ __forceinline__ double add(double x, double y) { return __dadd_rn(x, y); }
__device__ __forceinline__ float multiply(float x, float y) { return __fmul_rn(x, y); }
__device__ __forceinline__ double multiply(double x, double y) { return __dmul_rn(x, y); }
#endif
__device__ __forceinline__ float negative(float x) { return -x; }
__device__ __forceinline__ double negative(double x) { return -x; }
__device__ __forceinline__ float subtract(float x, float y) { return add(x, -y); }
__device__ __forceinline__ double subtract(double x, double y) { return add(x, -y); }
__device__ __forceinline__ float divide(float x, float y) { return x / y; }
__device__ __forceinline__ double divide(double x, double y) { return x / y; }

template <class T> __device__ __forceinline__ T add(T x, T y) {
    typedef typename Bits<sizeof(T)>::type U;
    return T(U(x) + U(y));
}
template <class T> __device__ __forceinline__ T multiply(T x, T y) {
    typedef typename Bits<sizeof(T)>::type U;
    return T(U(x) * U(y));
}
template <class T> __device__ __forceinline__ T subtract(T x, T y) {
    typedef typename Bits<sizeof(T)>::type U;
    return T(U(x) - U(y));
}
template <class T> __device__ __forceinline__ T negative(T x) {
    typedef typename Bits<sizeof(T)>::type U;
    return T(U(0) - U(x));
}

// Truncated; 0 where the divisor is 0, wrapped for the lowest number by -1.
template <class T> __device__ __forceinline__ T divide(T x, T y) {
    if (y == T(0)) return T(0);
    if (IsSigned<T>::value && y == T(-1)) return negative(x);
    return T(x / y);
}
template <class T> __device__ __forceinline__ T remainder_truncated(T x, T y) {
    if (y == T(0) || (IsSigned<T>::value && y == T(-1))) return T(0);
    return T(x % y);
}
__device__ __forceinline__ float remainder_truncated(float x, float y) { return fmodf(x, y); }
__device__ __forceinline__ double remainder_truncated(double x, double y) { return fmod(x, y); }

// With the sign of the divisor.
template <class T> __device__ __forceinline__ T remainder_floored(T x, T y) {
    T rest = remainder_truncated(x, y);
    return rest != T(0) && (rest < T(0)) != (y < T(0)) ? add(rest, y) : rest;
}
__device__ __forceinline__ float remainder_floored(float x, float y) {
    float rest = fmodf(x, y);
    if (rest == 0.0f) return copysignf(0.0f, y);
    return (rest < 0) != (y < 0) ? rest + y : rest;
}
__device__ __forceinline__ double remainder_floored(double x, double y) {
    double rest = fmod(x, y);
    if (rest == 0.0) return copysign(0.0, y);
    return (rest < 0) != (y < 0) ? rest + y : rest;
}

__device__ __forceinline__ float absolute(float x) { return fabsf(x); }
__device__ __forceinline__ double absolute(double x) { return fabs(x); }
template <class T> __device__ __forceinline__ T absolute(T x) { return x < T(0) ? negative(x) : x; }

// NaN stays; the sign of either zero is 0.
template <class T> __device__ __forceinline__ T sign(T x) {
    return x > T(0) ? T(1) : x < T(0) ? T(-1) : x == x ? T(0) : x;
}

__device__ __forceinline__ float square_root(float x) { return sqrtf(x); }
__device__ __forceinline__ double square_root(double x) { return sqrt(x); }
__device__ __forceinline__ float floor_of(float x) { return floorf(x); }
__device__ __forceinline__ double floor_of(double x) { return floor(x); }
__device__ __forceinline__ float ceil_of(float x) { return ceilf(x); }
__device__ __forceinline__ double ceil_of(double x) { return ceil(x); }
__device__ __forceinline__ float round_even(float x) { return rintf(x); }
__device__ __forceinline__ double round_even(double x) { return rint(x); }

// Shifts by more bits than there are, or by a negative number, leave 0, or the sign of what goes right.
template <class T> __device__ __forceinline__ T shift_left(T x, T y) {
    typedef typename Bits<sizeof(T)>::type U;
    return y >= T(0) && y < T(8 * sizeof(T)) ? T(U(x) << int(y)) : T(0);
}
template <class T> __device__ __forceinline__ T shift_right(T x, T y) {
    if (y >= T(0) && y < T(8 * sizeof(T))) return T(x >> int(y));
    return x < T(0) ? T(-1) : T(0);
}

// --- powers -------------------------------------------------------------------------------------------

__device__ __forceinline__ float power(float x, float y) { return powf(x, y); }
__device__ __forceinline__ double power(double x, double y) { return pow(x, y); }

// Of integers: wraps; a negative exponent truncates, and 0 to a negative power is 0.
template <class T, class E> __device__ __forceinline__ T power_of_integers(T x, E y) {
    if (y < E(0)) {
        if (x != T(1) && !(IsSigned<T>::value && x == T(-1))) return T(0);
        return y & E(1) ? x : T(1);
    }
    T result = T(1);
    for (uint64_t left = uint64_t(y); left; left >>= 1) {
        if (left & 1) result = multiply(result, x);
        x = multiply(x, x);
    }
    return result;
}

// --- conversions --------------------------------------------------------------------------------------

__device__ __forceinline__ uint64_t double_bits(double value) {
    uint64_t bits;
    memcpy(&bits, &value, 8);
    return bits;
}

// The integer part modulo 2**64; 0 for infinities and NaN.
__device__ __forceinline__ int64_t whole(double x) {
    if (x > -9223372036854775808.0 && x < 9223372036854775808.0) return int64_t(x);
    uint64_t bits = double_bits(x);
    int exponent = int(bits >> 52 & 0x7FF);
    uint64_t mantissa = (bits & ((uint64_t(1) << 52) - 1)) | uint64_t(1) << 52;
    uint64_t large = exponent < 1075 + 64 ? mantissa << (exponent - 1075) : 0;
    return int64_t(bits >> 63 ? uint64_t(0) - large : large);
}

// The integer part modulo 2**32; 0 for infinities and NaN.
__device__ __forceinline__ int32_t whole32(float x) {
    if (x > -2147483648.0f && x < 2147483648.0f) return int32_t(x);
    uint32_t bits = float_bits(x);
    int exponent = int(bits >> 23 & 0xFF);
    uint32_t mantissa = (bits & 0x7FFFFFu) | 0x800000u;
    uint32_t large = exponent < 150 + 32 ? mantissa << (exponent - 150) : 0;
    return int32_t(bits >> 31 ? 0u - large : large);
}

// Rounded to odd: one more rounding, to 16 bits, is then right.
__device__ __forceinline__ float odd_float(double x) {
    float nearest = float(x);
    uint32_t bits = float_bits(nearest);
    if (double(nearest) == x || x != x || bits & 1) return nearest;
    return bits_float(fabs(double(nearest)) > fabs(x) ? bits - 1 : bits + 1);
}
template <class T> __device__ __forceinline__ double odd_double(T x) {
    bool below = IsSigned<T>::value && x < T(0);
    uint64_t size = below ? uint64_t(0) - uint64_t(x) : uint64_t(x);
    if (sizeof(T) < 8 || size < uint64_t(1) << 53) return double(x);
    double value = double(size >> 11 | ((size & 2047) != 0)) * 2048.0;
    return below ? -value : value;
}

// Of any type to G, before rounding to 16 bits; TO_16: whether that follows.
template <class G, bool TO_16, class T> __device__ __forceinline__ G converted(T x) {
    if constexpr (IsSame<G, T>::value) return x;
    else if constexpr (IsSame<G, bool>::value) return x != T(0);
    else if constexpr (IsFloat<T>::value && !IsFloat<G>::value) {
        if constexpr (IsSame<T, float>::value && sizeof(G) <= 4) return G(whole32(x));
        else return G(whole(double(x)));
    } else if constexpr (TO_16 && IsSame<T, double>::value) return odd_float(x);
    else if constexpr (TO_16 && sizeof(T) >= 4) return odd_float(odd_double(x));
    else return G(x);
}

// Of a float64 to integers: what is out of range saturates, NaN gives 0.
template <class G> __device__ __forceinline__ G saturated(double x) {
    const G high = IsSigned<G>::value ? G(~uint64_t(0) >> (65 - 8 * sizeof(G))) : G(~G(0)), low = G(~high);
    const G lowest = IsSigned<G>::value ? low : G(0);
    if (x != x) return G(0);
    if (x <= double(lowest)) return lowest;
    return x >= double(high) ? high : G(x);
}

// To the nearest of the type, as a value to go on with.
template <class T> struct Rounded {
    template <class W> __device__ __forceinline__ static W of(W value) { return value; }
};
template <> struct Rounded<half_t> {
    __device__ __forceinline__ static float of(float value) { return widen(narrow<half_t>(value)); }
};
template <> struct Rounded<bfloat16_t> {
    __device__ __forceinline__ static float of(float value) {
#if defined(ONNXREF_EMULATED)
        return widen(narrow<bfloat16_t>(value));
#else
        uint16_t bits;
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
        return widen(bfloat16_t{bits});
#endif
    }
};
template <class T> __device__ __forceinline__ float rounded(float value) { return Rounded<T>::of(value); }

// What is of the type already, as it lies in memory.
template <class T, class W> __device__ __forceinline__ T stored(W value) {
    if constexpr (IsSame<T, bfloat16_t>::value) return {uint16_t(float_bits(value) >> 16)};
    else return narrow<T>(value);
}

// --- functions ----------------------------------------------------------------------------------------

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float exponential_minus_1(float x) { return expm1f(x); }
__device__ __forceinline__ double exponential_minus_1(double x) { return expm1(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }
__device__ __forceinline__ float logarithm_plus_1(float x) { return log1pf(x); }
__device__ __forceinline__ double logarithm_plus_1(double x) { return log1p(x); }
__device__ __forceinline__ float error_function(float x) { return erff(x); }
__device__ __forceinline__ double error_function(double x) { return erf(x); }
__device__ __forceinline__ float error_complement(float x) { return erfcf(x); }
__device__ __forceinline__ double error_complement(double x) { return erfc(x); }
__device__ __forceinline__ float sine(float x) { return sinf(x); }
__device__ __forceinline__ double sine(double x) { return sin(x); }
__device__ __forceinline__ float cosine(float x) { return cosf(x); }
__device__ __forceinline__ double cosine(double x) { return cos(x); }
__device__ __forceinline__ float tangent(float x) { return tanf(x); }
__device__ __forceinline__ double tangent(double x) { return tan(x); }
__device__ __forceinline__ float hyperbolic_sine(float x) { return sinhf(x); }
__device__ __forceinline__ double hyperbolic_sine(double x) { return sinh(x); }
__device__ __forceinline__ float hyperbolic_cosine(float x) { return coshf(x); }
__device__ __forceinline__ double hyperbolic_cosine(double x) { return cosh(x); }
__device__ __forceinline__ float hyperbolic_tangent(float x) { return tanhf(x); }
__device__ __forceinline__ double hyperbolic_tangent(double x) { return tanh(x); }
__device__ __forceinline__ float arc_sine(float x) { return asinf(x); }
__device__ __forceinline__ double arc_sine(double x) { return asin(x); }
__device__ __forceinline__ float arc_cosine(float x) { return acosf(x); }
__device__ __forceinline__ double arc_cosine(double x) { return acos(x); }
__device__ __forceinline__ float arc_tangent(float x) { return atanf(x); }
__device__ __forceinline__ double arc_tangent(double x) { return atan(x); }
__device__ __forceinline__ float area_sine(float x) { return asinhf(x); }
__device__ __forceinline__ double area_sine(double x) { return asinh(x); }
__device__ __forceinline__ float area_cosine(float x) { return acoshf(x); }
__device__ __forceinline__ double area_cosine(double x) { return acosh(x); }
__device__ __forceinline__ float area_tangent(float x) { return atanhf(x); }
__device__ __forceinline__ double area_tangent(double x) { return atanh(x); }

// --- activations --------------------------------------------------------------------------------------

template <class W> __device__ __forceinline__ W limited(W x, W low, W high) {
    return min_nan(max_nan(x, low), high);
}

// exp of what is never positive: no overflow, and full precision in both tails.
template <class W> __device__ __forceinline__ W sigmoid(W x) {
    W tail = exponential(-absolute(x));
    return (x < W(0) ? tail : W(1)) / (W(1) + tail);
}
// Near enough for a result that is rounded to 16 bits.
__device__ __forceinline__ float sigmoid_16(float x) {
    float tail = __expf(-fabsf(x));
    return __fdividef(x < 0.0f ? tail : 1.0f, 1.0f + tail);
}
template <class W> __device__ __forceinline__ W softplus(W x) {
    return max_nan(x, W(0)) + logarithm_plus_1(exponential(-absolute(x)));
}
// tanh(log(1 + e**x)) is (e**2x + 2 e**x) / (e**2x + 2 e**x + 2); by e**2x where x is positive.
template <class W> __device__ __forceinline__ W mish(W x) {
    W tail = exponential(-absolute(x));
    W over = x < W(0) ? tail * (tail + W(2)) : W(1) + W(2) * tail;
    return x * (over / (over + (x < W(0) ? W(2) : W(2) * tail * tail)));
}
// erfc keeps the digits that 1 + erf(x) loses below 0.
template <class W> __device__ __forceinline__ W gelu(W x) {
    return W(0.5) * x * error_complement(x * W(-0.70710678118654752440));
}
// (1 + tanh(u)) / 2 is sigmoid(2 u).
template <class W> __device__ __forceinline__ W gelu_tanh(W x) {
    return x * sigmoid(W(1.5957691216057307) * (x + W(0.044715) * x * x * x));
}
__device__ __forceinline__ float gelu_tanh_16(float x) {
    return x * sigmoid_16(1.5957691216057307f * (x + 0.044715f * x * x * x));
}
template <class W> __device__ __forceinline__ W curve_below_0(W x, W alpha) {
    return multiply(alpha, exponential_minus_1(min_nan(x, W(0))));
}
template <class W> __device__ __forceinline__ W celu(W x, W alpha) {
    return add(max_nan(x, W(0)), min_nan(multiply(alpha, exponential_minus_1(divide(x, alpha))), W(0)));
}

// (x - mean) * factor + shift.
template <class W> __device__ __forceinline__ W normalized(W x, W mean, W factor, W shift) {
    return add(multiply(subtract(x, mean), factor), shift);
}
