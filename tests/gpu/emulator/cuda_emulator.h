// CUDA C++ on a processor: one block at a time, its threads as fibers that switch at barriers and shuffles.
//
// What it shows: wrong indices (with guards or the address sanitizer), missing barriers (another order of the
// threads gives another result), barriers that only some threads reach. What it cannot: races within
// a warp between barriers, memory ordering, speed.
//
// Hundreds of kernels are built with it, so it includes little: `cuda_emulator.cpp`, built once, runs the threads.
#pragma once
#include <cstddef>
// C++17 brings mathematics of its own to <cmath>, and with it half of the standard library.
#undef _GLIBCXX_USE_STD_SPEC_FUNCS
#include <math.h>
#include <stdint.h>
#include <string.h>

#define ONNXREF_EMULATED 1

struct dim3 {
    unsigned x, y, z;
};
struct uint3 {
    unsigned x, y, z;
};

namespace emulator {

enum class State { running, at_barrier, at_warp, done };

struct Fiber {
    void *stack_pointer;
    dim3 thread;
    int barrier;        // which barrier it waits at
    State state;
    uint64_t exchange;  // what it shows the lanes of its warp
};

constexpr size_t most_shared = 228 * 1024;

// What a kernel's library tells of itself.
struct KernelCode {
    void (*run)(void **arguments);
    char *shared_begin, *shared_end;  // its static shared memory, if that is in one place
};

extern Fiber *fibers;  // of the block
extern unsigned fiber_count;
extern Fiber *current;
extern dim3 block_index, block_extent, grid_extent;
extern unsigned char *dynamic_shared;

void barrier(int which);
void warp_barrier();
int lane();
uint64_t exchange_bits(uint64_t value, int source);
unsigned ballot(bool vote);
// Returns what was wrong, or nullptr.
const char *launch(KernelCode code, void **arguments, dim3 grid, dim3 block, size_t shared, int order);

template <class T> T exchange(T value, int source) {
    static_assert(sizeof(T) <= 8);
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = exchange_bits(bits, source);
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <class T> struct Plain { typedef T type; };
template <class T> struct Plain<const T> { typedef T type; };

}  // namespace emulator

#define threadIdx (emulator::current->thread)
#define blockIdx emulator::block_index
#define blockDim emulator::block_extent
#define gridDim emulator::grid_extent
#define warpSize 32
#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __noinline__
#define __restrict__
#define __grid_constant__
#define __launch_bounds__(...)
// The sanitizer keeps static shared memory apart; else it is in one section, to be spoilt.
#if defined(__SANITIZE_ADDRESS__)
#define __shared__ static
#define STATIC_SHARED nullptr, nullptr
#else
extern "C" char __start_emulator_shared[] __attribute__((weak));
extern "C" char __stop_emulator_shared[] __attribute__((weak));
#define __shared__ static __attribute__((section("emulator_shared")))
#define STATIC_SHARED __start_emulator_shared, __stop_emulator_shared
#endif
#define __syncthreads() emulator::barrier(__COUNTER__ + 1)
#define __syncwarp(...) emulator::warp_barrier()
#define __threadfence()
#define __threadfence_block()

template <class T> T __shfl_sync(unsigned, T v, int source, int width = 32) {
    return emulator::exchange(v, emulator::lane() / width * width + source % width);
}
template <class T> T __shfl_xor_sync(unsigned, T v, int mask, int = 32) {
    return emulator::exchange(v, emulator::lane() ^ mask);
}
template <class T> T __shfl_down_sync(unsigned, T v, int by, int width = 32) {
    int lane = emulator::lane(), source = lane + by;
    return emulator::exchange(v, source / width == lane / width ? source : lane);
}
template <class T> T __shfl_up_sync(unsigned, T v, int by, int width = 32) {
    int lane = emulator::lane(), source = lane - by;
    return emulator::exchange(v, source >= lane / width * width ? source : lane);
}
inline unsigned __ballot_sync(unsigned, bool vote) { return emulator::ballot(vote); }
inline bool __any_sync(unsigned, bool vote) { return emulator::ballot(vote) != 0; }
inline bool __all_sync(unsigned, bool vote) { return emulator::ballot(!vote) == 0; }

template <class T> T max(T a, T b) { return a < b ? b : a; }
template <class T> T min(T a, T b) { return b < a ? b : a; }

template <class T, class U> T atomicAdd(T *p, U v) { T old = *p; *p = T(old + T(v)); return old; }
template <class T, class U> T atomicMax(T *p, U v) { T old = *p; *p = max(old, T(v)); return old; }
template <class T, class U> T atomicMin(T *p, U v) { T old = *p; *p = min(old, T(v)); return old; }
template <class T, class U> T atomicOr(T *p, U v) { T old = *p; *p = old | T(v); return old; }
template <class T, class U> T atomicExch(T *p, U v) { T old = *p; *p = T(v); return old; }
template <class T, class U, class V> T atomicCAS(T *p, U expected, V v) {
    T old = *p;
    if (old == T(expected)) *p = T(v);
    return old;
}

template <class T> T __ldg(const T *p) { return *p; }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return v ? __builtin_clz(v) : 32; }
inline float __expf(float v) { return expf(v); }
inline float __logf(float v) { return logf(v); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float v) { return 1.0f / sqrtf(v); }
inline double rsqrt(double v) { return 1.0 / sqrt(v); }
inline int __float_as_int(float v) { int r; memcpy(&r, &v, 4); return r; }
inline float __int_as_float(int v) { float r; memcpy(&r, &v, 4); return r; }
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += int(int8_t(a >> 8 * i)) * int(int8_t(b >> 8 * i));
    return c;
}
float half_bits_to_float(uint16_t bits);
uint16_t float_to_half_bits(float value);
