// Types of 8 bits and less, each in a byte of its own, and casts between all types; the same bits as ml_dtypes.
// SATURATE: whether what is out of range of 8 bits becomes the largest finite value; ROUND_MODE: of float8e8m0,
// 0 up, 1 down, 2 nearest; BEFORE_24: whether floats saturate to 4-bit integers, and NaN is 6 in float4e2m1.
#include "elementwise.cuh"

#ifndef SATURATE
#define SATURATE 1
#endif
#ifndef ROUND_MODE
#define ROUND_MODE 0
#endif
#ifndef BEFORE_24
#define BEFORE_24 0
#endif

// What the highest codes are: infinity and NaN; NaN at all ones; NaN in the place of -0; only numbers.
enum Special { IEEE, ALL_ONES, MINUS_ZERO, FINITE };

// A sign, E bits of exponent, M bits of mantissa.
template <int E, int M, int BIAS, Special KIND> struct Minifloat { uint8_t bits; };
// Integers in the low bits of a byte; the others mean nothing.
template <int BITS, bool SIGNED> struct SmallInteger { uint8_t bits; };
// A power of two.
struct float8_e8m0fnu_t { uint8_t bits; };

typedef Minifloat<4, 3, 7, ALL_ONES> float8_e4m3fn_t;
typedef Minifloat<4, 3, 8, MINUS_ZERO> float8_e4m3fnuz_t;
typedef Minifloat<5, 2, 15, IEEE> float8_e5m2_t;
typedef Minifloat<5, 2, 16, MINUS_ZERO> float8_e5m2fnuz_t;
typedef Minifloat<2, 1, 1, FINITE> float4_e2m1fn_t;
typedef Minifloat<2, 3, 1, FINITE> float6_e2m3fn_t;
typedef Minifloat<3, 2, 3, FINITE> float6_e3m2fn_t;
typedef SmallInteger<4, true> int4_t;
typedef SmallInteger<4, false> uint4_t;
typedef SmallInteger<2, true> int2_t;
typedef SmallInteger<2, false> uint2_t;

// --- values of elements: in float, in int, or as they are -------------------------------------------------

template <class T> __device__ __forceinline__ typename Wide<T>::type plain(T x) { return widen(x); }

template <int E, int M, int BIAS, Special KIND>
__device__ __forceinline__ float plain(Minifloat<E, M, BIAS, KIND> x) {
    uint32_t size = x.bits & ((1u << (E + M)) - 1u), sign = uint32_t(x.bits >> (E + M) & 1) << 31;
    if (KIND == MINUS_ZERO && x.bits == 0x80) return bits_float(0xffc00000u);
    if (KIND == ALL_ONES && size == 0x7fu) return bits_float(0x7fc00000u | sign);
    if (KIND == IEEE && size >= 0x7cu) return bits_float((size == 0x7cu ? 0x7f800000u : 0x7fc00000u) | sign);
    // Exponents are moved by a multiplication, which is exact and also makes numbers of subnormal ones.
    float scale = bits_float(uint32_t(254 - BIAS) << 23);
    return bits_float(float_bits(bits_float(size << (23 - M)) * scale) | sign);
}

template <int BITS, bool SIGNED> __device__ __forceinline__ int32_t plain(SmallInteger<BITS, SIGNED> x) {
    int32_t value = x.bits & ((1 << BITS) - 1);
    return SIGNED && value >> (BITS - 1) ? value - (1 << BITS) : value;
}

__device__ __forceinline__ float plain(float8_e8m0fnu_t x) {
    if (x.bits == 0xff) return bits_float(0x7fc00000u);
    return x.bits ? bits_float(uint32_t(x.bits) << 23) : bits_float(0x00400000u);
}

// --- from such a value to an element ----------------------------------------------------------------------

template <class T> struct Made {
    typedef typename Wide<T>::type W;
    template <class S> __device__ __forceinline__ static T of(S x) {
        return narrow<T>(converted<W, !IsSame<T, W>::value>(x));
    }
};

template <int E, int M, int BIAS, Special KIND> struct Made<Minifloat<E, M, BIAS, KIND>> {
    typedef Minifloat<E, M, BIAS, KIND> T;
    static constexpr uint32_t LARGEST =
        KIND == IEEE ? (((1u << E) - 1u) << M) - 1u : (1u << (E + M)) - (KIND == ALL_ONES ? 2u : 1u);
    static constexpr uint32_t BEYOND = KIND == FINITE ? LARGEST : LARGEST + 1u;
    static constexpr uint32_t NORMAL = uint32_t(128 - BIAS) << 23;  // bits of the smallest normal number
    static constexpr uint32_t LAST = uint32_t(128 - BIAS - M + 23) << 23;  // bits of 2^23 times the smallest one

    template <class S> __device__ __forceinline__ static T of(S x) { return rounded(converted<float, true>(x)); }

    __device__ __forceinline__ static T rounded(float x) {
        uint32_t bits = float_bits(x), size = bits & 0x7fffffffu, sign = bits >> 31;
        if (size > 0x7f800000u) {
            if (KIND == FINITE) return {uint8_t(BEFORE_24 && M == 1 ? 7 : 1u << (E + M))};
            if (KIND == MINUS_ZERO) return {0x80};
            return {uint8_t((KIND == ALL_ONES ? 0x7fu : 0x7eu) | sign << 7)};
        }
        uint32_t code;
        if (size < NORMAL) {
            code = float_bits(bits_float(size) + bits_float(LAST)) - LAST;
        } else {
            uint32_t moved = size - (uint32_t(127 - BIAS) << 23);
            code = (moved + (1u << (22 - M)) - 1u + (moved >> (23 - M) & 1u)) >> (23 - M);
        }
        if (code > LARGEST) {
            if (KIND == MINUS_ZERO && !SATURATE) return {0x80};
            code = SATURATE ? LARGEST : BEYOND;
        }
        if (KIND == MINUS_ZERO && code == 0) return {0};
        return {uint8_t(code | sign << (E + M))};
    }
};

template <int BITS, bool SIGNED> struct Made<SmallInteger<BITS, SIGNED>> {
    template <class S> __device__ __forceinline__ static SmallInteger<BITS, SIGNED> of(S x) {
        if constexpr (BEFORE_24 && BITS == 4 && IsFloat<S>::value) {
            const S low = SIGNED ? S(-8) : S(0), high = SIGNED ? S(7) : S(15);
            x = x < low ? low : x > high ? high : x;
        }
        return {uint8_t(uint32_t(converted<int32_t, false>(x)) & ((1u << BITS) - 1u))};
    }
};

template <> struct Made<float8_e8m0fnu_t> {
    template <class S> __device__ __forceinline__ static float8_e8m0fnu_t of(S x) {
        if constexpr (IsFloat<S>::value) return rounded(double(x));
        else return rounded(odd_double(x));
    }

    __device__ __forceinline__ static float8_e8m0fnu_t rounded(double x) {
        const double low = 5.877471754111437540e-39, high = 1.7014118346046923173e38;  // 2^-127, 2^127
        if (SATURATE ? !(x >= 0) : !(x >= low && x <= high)) return {0xff};
        uint64_t bits = double_bits(x < low ? low : x > high ? high : x);
        uint64_t rest = bits & ((uint64_t(1) << 52) - 1);
        int code = int(bits >> 52) - 896;
        if (ROUND_MODE == 0) code += rest != 0;
        if (ROUND_MODE == 2) code += int(rest >> 51);
        return {uint8_t(code)};
    }
};

template <class T, class S> __device__ __forceinline__ T made(S x) { return Made<T>::of(x); }
