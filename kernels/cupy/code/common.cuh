// What every kernel file can use: types that C++ lacks, wide accesses, reductions over warps and blocks.
// The text is compiled by NVRTC for a card, and by a C++ compiler for the emulator (ONNXREF_EMULATED).

#if defined(ONNXREF_EMULATED)
// The emulator's header has defined the integers, CUDA's words, and these two conversions.
#else
#include <cuda_fp16.h>
#if defined(__CUDACC_RTC__)
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
#else
#include <cstdint>
#endif
__device__ __forceinline__ float half_bits_to_float(uint16_t bits) {
    return __half2float(__ushort_as_half(bits));
}
__device__ __forceinline__ uint16_t float_to_half_bits(float value) {
    return __half_as_ushort(__float2half_rn(value));
}
#endif

#define FULL_WARP 0xffffffffu
#define WARP 32

struct half_t { uint16_t bits; };
struct bfloat16_t { uint16_t bits; };

// N integers by value: shapes and strides.
template <int N> struct Ints { long long v[N]; };

// N elements that one access loads or stores; aligned to their size, at most 16 bytes.
template <class T, int N> struct alignas(sizeof(T) * N) Vec { T v[N]; };

// The type in which a type is computed with.
template <class T> struct Wide { typedef T type; };
template <> struct Wide<half_t> { typedef float type; };
template <> struct Wide<bfloat16_t> { typedef float type; };

__device__ __forceinline__ uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

__device__ __forceinline__ float bits_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// Widening is exact.
template <class T> __device__ __forceinline__ T widen(T value) { return value; }
__device__ __forceinline__ float widen(half_t value) { return half_bits_to_float(value.bits); }
__device__ __forceinline__ float widen(bfloat16_t value) { return bits_float(uint32_t(value.bits) << 16); }

// Narrowing rounds to nearest even once; NaN stays NaN.
template <class T> struct Narrow {
    template <class W> __device__ __forceinline__ static T from(W value) { return T(value); }
};
template <> struct Narrow<half_t> {
    __device__ __forceinline__ static half_t from(float value) { return {float_to_half_bits(value)}; }
};
template <> struct Narrow<bfloat16_t> {
    __device__ __forceinline__ static bfloat16_t from(float value) {
        uint32_t bits = float_bits(value);
        if ((bits & 0x7fffffffu) > 0x7f800000u) return {uint16_t((bits >> 16) | 0x40u)};
        return {uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
    }
};
template <class T, class W> __device__ __forceinline__ T narrow(W value) { return Narrow<T>::from(value); }

// NaN wins, as IEEE 754's maximum and minimum have it; for integers plain comparisons.
template <class T> __device__ __forceinline__ T max_nan(T a, T b) { return a != a || a > b ? a : b; }
template <class T> __device__ __forceinline__ T min_nan(T a, T b) { return a != a || a < b ? a : b; }

struct Sum { template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a + b; } };
struct Product { template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a * b; } };
struct Maximum {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return max_nan(a, b); }
};
struct Minimum {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return min_nan(a, b); }
};

// Every lane gets the combination of all 32, always in the same order.
template <class T, class Combine> __device__ __forceinline__ T warp_all(T value, Combine combine) {
    for (int offset = WARP / 2; offset; offset >>= 1)
        value = combine(value, __shfl_xor_sync(FULL_WARP, value, offset));
    return value;
}

// Every thread of a block of whole warps gets the combination of all; `held` is shared, one place per warp.
// Ends with a barrier, so that `held` may be used again at once.
template <class T, class Combine> __device__ __forceinline__ T block_all(T value, Combine combine, T *held) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    value = warp_all(value, combine);
    if (lane == 0) held[warp] = value;
    __syncthreads();
    value = held[0];
    for (int i = 1; i < warps; i++) value = combine(value, held[i]);
    __syncthreads();
    return value;
}

// First element of this thread, and the step from one to the next, where a grid walks over many.
__device__ __forceinline__ long long first_index() {
    return blockIdx.x * (long long)blockDim.x + threadIdx.x;
}
__device__ __forceinline__ long long index_step() { return gridDim.x * (long long)blockDim.x; }
