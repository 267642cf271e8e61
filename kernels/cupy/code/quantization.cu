// QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear.
// X, SCALE, Y: types of the elements; DIVISION: type that a quotient is rounded to; HAS_ZERO: whether there
// are zero points; VEC: elements of an access; ITEMS: accesses of a thread; INDEX: type of indices.
// MODE: 0 one scale, 1 one for the elements of an access, 2 scales that lie as the elements do, 3 any.
//
// A tensor is seen as (outer, length, inner); element (o, a, i) has the scale at
// o * axes[6] + a / block * axes[7] + i * axes[8]. `axes`: inner, length, block, their magics, these strides.
#include "narrow_types.cuh"
#include "units.cuh"

#ifdef QUANTIZE
typedef Y ZERO;
#else
typedef X ZERO;
#endif

template <class T> struct Range {  // of integers; `known` is false for floats
    static constexpr bool known = !IsFloat<T>::value;
    static constexpr int bits = 8 * sizeof(T);
    static constexpr bool is_signed = IsSigned<T>::value;
};
template <int BITS, bool SIGNED> struct Range<SmallInteger<BITS, SIGNED>> {
    static constexpr bool known = true, is_signed = SIGNED;
    static constexpr int bits = BITS;
};
template <int E, int M, int BIAS, Special KIND> struct Range<Minifloat<E, M, BIAS, KIND>> {
    static constexpr bool known = false, is_signed = true;
    static constexpr int bits = 8;
};

__device__ __forceinline__ INDEX place_of(INDEX at, const Ints<9> &axes) {
    if (MODE == 0) return 0;
    INDEX row = quotient(at, axes.v[0], axes.v[3]), column = at - row * INDEX(axes.v[0]);
    INDEX outer = quotient(row, axes.v[1], axes.v[4]), along = row - outer * INDEX(axes.v[1]);
    INDEX block = quotient(along, axes.v[2], axes.v[5]);
    return outer * INDEX(axes.v[6]) + block * INDEX(axes.v[7]) + column * INDEX(axes.v[8]);
}

#ifdef QUANTIZE
typedef Wide<DIVISION>::type Q;

__device__ __forceinline__ Q factor_of(SCALE scale) { return plain(made<DIVISION>(plain(scale))); }
__device__ __forceinline__ float offset_of_zero(ZERO zero) { return float(plain(zero)); }
typedef float Offset;

__device__ __forceinline__ Y coded(X x, Q scale, float zero) {
    Q q = plain(made<DIVISION>(divide(Q(plain(made<DIVISION>(plain(x)))), scale)));
    if constexpr (Range<Y>::known) {
        const Q low = Range<Y>::is_signed ? -Q(1 << (Range<Y>::bits - 1)) : Q(0);
        const Q high = Q((1 << (Range<Y>::bits - (Range<Y>::is_signed ? 1 : 0))) - 1);
        q = rint(q);
        if (HAS_ZERO) q = q + Q(zero);
        q = q < low ? low : q > high ? high : q;
        return made<Y>(q == q ? int32_t(q) : int32_t(0));
    } else {
        return made<Y>(HAS_ZERO ? q + Q(zero) : q);
    }
}
#else
typedef float Q;
typedef Wide<X>::type Given;

__device__ __forceinline__ float factor_of(SCALE scale) { return plain(scale); }

#if X_KIND == 0  // floats
typedef float Offset;
#elif X_KIND == 1
typedef int32_t Offset;
#else  // differences of int32 take 64 bits
typedef int64_t Offset;
#endif
__device__ __forceinline__ Offset offset_of_zero(ZERO zero) { return Offset(plain(zero)); }

__device__ __forceinline__ Y coded(X x, float scale, Offset zero) {
    float value = HAS_ZERO ? float(Offset(plain(x)) - zero) : float(plain(x));
    return narrow<Y>(multiply(value, scale));
}
#endif

__device__ __forceinline__ Vec<Y, VEC> coded_all(Vec<X, VEC> given, INDEX first, const SCALE *scale, const ZERO *zero,
                                                 const Ints<9> &axes) {
    Vec<Y, VEC> goal;
    if constexpr (MODE <= 1) {
        INDEX at = place_of(first, axes);
        Q factor = factor_of(scale[at]);
        Offset offset = HAS_ZERO ? offset_of_zero(zero[at]) : Offset(0);
#pragma unroll
        for (int e = 0; e < VEC; e++) goal.v[e] = coded(given.v[e], factor, offset);
    } else if constexpr (MODE == 2) {
        INDEX at = place_of(first, axes);
        Vec<SCALE, VEC> scales = *(const Vec<SCALE, VEC> *)(scale + at);
        Vec<ZERO, VEC> zeros;
        if (HAS_ZERO) zeros = *(const Vec<ZERO, VEC> *)(zero + at);
#pragma unroll
        for (int e = 0; e < VEC; e++)
            goal.v[e] = coded(given.v[e], factor_of(scales.v[e]), HAS_ZERO ? offset_of_zero(zeros.v[e]) : Offset(0));
    } else {
#pragma unroll
        for (int e = 0; e < VEC; e++) {
            INDEX at = place_of(first + e, axes);
            goal.v[e] = coded(given.v[e], factor_of(scale[at]), HAS_ZERO ? offset_of_zero(zero[at]) : Offset(0));
        }
    }
    return goal;
}

extern "C" __global__ void linear(const X *__restrict__ x, const SCALE *__restrict__ scale,
                                  const ZERO *__restrict__ zero, Y *__restrict__ y, long long total, Ints<9> axes) {
    INDEX vectors = INDEX(total / VEC), first = INDEX(blockIdx.x) * INDEX(blockDim.x * ITEMS) + INDEX(threadIdx.x);
    Vec<X, VEC> given[ITEMS];
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        INDEX at = first + INDEX(i * blockDim.x);
        if (at < vectors) given[i] = ((const Vec<X, VEC> *)x)[at];
    }
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        INDEX at = first + INDEX(i * blockDim.x);
        if (at < vectors) ((Vec<Y, VEC> *)y)[at] = coded_all(given[i], at * VEC, scale, zero, axes);
    }
    INDEX rest = vectors * VEC + INDEX(threadIdx.x);
    if (blockIdx.x == 0 && rest < INDEX(total)) {
        INDEX at = place_of(rest, axes);
        y[rest] = coded(x[rest], factor_of(scale[at]), HAS_ZERO ? offset_of_zero(zero[at]) : Offset(0));
    }
}
