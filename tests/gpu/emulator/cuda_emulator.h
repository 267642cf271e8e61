// CUDA C++ on a processor: one block at a time, its threads as fibers that switch at barriers and shuffles.
//
// What it shows: wrong indices (with guards or the address sanitizer), missing barriers (another order of the
// threads gives another result), barriers that only some threads reach. What it cannot: races within
// a warp between barriers, memory ordering, speed.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

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

constexpr size_t stack_bytes = 64 * 1024;
constexpr size_t most_shared = 228 * 1024;

inline std::vector<Fiber> fibers;
inline char *stacks = nullptr;
inline size_t stack_count = 0;
inline void *scheduler = nullptr;
inline Fiber *current = nullptr;
inline void (*body)(void *) = nullptr;
inline void *body_argument = nullptr;
inline dim3 block_index, block_extent, grid_extent;
inline unsigned char *dynamic_shared = nullptr;
inline size_t dynamic_bytes = 0;
inline int order = 0;  // 0: forward, 1: backward, 2: warps rotate from barrier to barrier

extern "C" void emulator_switch(void **from, void *to);
#if defined(__x86_64__)
// Saves the registers that a call preserves, and takes those of the other stack.
asm(".text\n.weak emulator_switch\n.type emulator_switch,@function\nemulator_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");
#else
#error "the emulator switches stacks on x86-64 only"
#endif

inline void leave() { emulator_switch(&current->stack_pointer, scheduler); }

inline void enter() {
    body(body_argument);
    current->state = State::done;
    leave();
    std::abort();
}

inline void barrier(int which) {
    current->barrier = which;
    current->state = State::at_barrier;
    leave();
}

inline void warp_barrier() {
    current->state = State::at_warp;
    leave();
}

inline int lane() { return int(current - fibers.data()) % 32; }

inline void prepare(unsigned count) {
    if (stack_count < count) {
        std::free(stacks);
        stacks = static_cast<char *>(std::aligned_alloc(64, count * stack_bytes));
        stack_count = count;
    }
    fibers.resize(count);
    for (unsigned t = 0; t < count; t++) {
        void **top = reinterpret_cast<void **>(stacks + (t + 1) * stack_bytes);
        *--top = nullptr;  // where a return address would be: keeps the stack aligned as after a call
        *--top = reinterpret_cast<void *>(&enter);
        for (int i = 0; i < 6; i++) *--top = nullptr;
        dim3 place{t % block_extent.x, t / block_extent.x % block_extent.y,
                   t / block_extent.x / block_extent.y};
        fibers[t] = Fiber{top, place, 0, State::running, 0};
    }
}

// Runs a warp until all of its lanes are done or wait at a barrier of the block.
inline bool run_warp(unsigned begin, unsigned end) {
    for (;;) {
        for (unsigned j = begin; j < end; j++) {
            Fiber &fiber = fibers[order == 1 ? end - 1 - (j - begin) : j];
            if (fiber.state != State::running) continue;
            current = &fiber;
            emulator_switch(&scheduler, fiber.stack_pointer);
        }
        bool some_wait = false;
        for (unsigned t = begin; t < end; t++) some_wait |= fibers[t].state == State::at_warp;
        if (!some_wait) return true;
        for (unsigned t = begin; t < end; t++) {  // a shuffle or vote of all lanes: nobody may be elsewhere
            if (fibers[t].state == State::at_barrier) return false;
            if (fibers[t].state == State::at_warp) fibers[t].state = State::running;
        }
    }
}

// Returns what was wrong, or nullptr.
inline const char *run_block() {
    unsigned count = block_extent.x * block_extent.y * block_extent.z;
    prepare(count);
    unsigned warps = (count + 31) / 32, turn = block_index.x;
    for (;;) {
        for (unsigned i = 0; i < warps; i++) {
            unsigned warp = order == 1 ? warps - 1 - i : order == 2 ? (i + turn) % warps : i;
            if (!run_warp(warp * 32, std::min(count, warp * 32 + 32)))
                return "lanes of a warp wait at a barrier while others shuffle";
        }
        turn = turn * 1664525u + 1013904223u;
        int which = 0;
        bool some_done = false;
        for (Fiber &fiber : fibers) {
            if (fiber.state == State::done) {
                some_done = true;
                continue;
            }
            if (which && which != fiber.barrier) return "threads of a block wait at different barriers";
            which = fiber.barrier;
            fiber.state = State::running;
        }
        if (!which) return nullptr;
        if (some_done) return "threads have ended while others wait at a barrier";
    }
}

#if !defined(__SANITIZE_ADDRESS__)
extern "C" char __start_emulator_shared[] __attribute__((weak));
extern "C" char __stop_emulator_shared[] __attribute__((weak));
#endif

// Shared memory holds anything when a block begins.
inline void spoil_shared() {
    std::memset(dynamic_shared, 0xFF, dynamic_bytes);
#if !defined(__SANITIZE_ADDRESS__)
    if (__start_emulator_shared) std::memset(__start_emulator_shared, 0xFF, __stop_emulator_shared - __start_emulator_shared);
#endif
}

template <class F> const char *launch(dim3 grid, dim3 block, size_t shared, int chosen_order, F &&kernel) {
    order = chosen_order;
    grid_extent = grid;
    block_extent = block;
    dynamic_bytes = shared;
    dynamic_shared = static_cast<unsigned char *>(std::aligned_alloc(128, (shared + 127) / 128 * 128 + 128));
    body_argument = &kernel;
    body = [](void *p) { (*static_cast<std::remove_reference_t<F> *>(p))(); };
    const char *error = nullptr;
    unsigned total = grid.x * grid.y * grid.z;
    for (unsigned i = 0; i < total && !error; i++) {
        unsigned at = order == 1 ? total - 1 - i : i;
        block_index = {at % grid.x, at / grid.x % grid.y, at / grid.x / grid.y};
        spoil_shared();
        error = run_block();
    }
    std::free(dynamic_shared);
    return error;
}

template <class T> T exchange(T value, int source) {
    static_assert(sizeof(T) <= 8);
    std::memcpy(&current->exchange, &value, sizeof value);
    warp_barrier();
    size_t first = (current - fibers.data()) & ~size_t(31);
    size_t from = std::min(first + (source & 31), fibers.size() - 1);
    T result;
    std::memcpy(&result, &fibers[from].exchange, sizeof result);
    warp_barrier();
    return result;
}

inline unsigned ballot(bool vote) {
    unsigned all = 0;
    current->exchange = vote;
    warp_barrier();
    size_t first = (current - fibers.data()) & ~size_t(31);
    for (size_t t = first; t < std::min(first + 32, fibers.size()); t++)
        all |= unsigned(fibers[t].state != State::done && fibers[t].exchange) << (t - first);
    warp_barrier();
    return all;
}

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
#if defined(__SANITIZE_ADDRESS__)
#define __shared__ static
#else
#define __shared__ static __attribute__((section("emulator_shared")))
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

template <class T, class U> T atomicAdd(T *p, U v) { T old = *p; *p = T(old + T(v)); return old; }
template <class T, class U> T atomicMax(T *p, U v) { T old = *p; *p = std::max(old, T(v)); return old; }
template <class T, class U> T atomicMin(T *p, U v) { T old = *p; *p = std::min(old, T(v)); return old; }
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
inline float __expf(float v) { return std::exp(v); }
inline float __logf(float v) { return std::log(v); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float v) { return 1.0f / std::sqrt(v); }
inline double rsqrt(double v) { return 1.0 / std::sqrt(v); }
inline int __float_as_int(float v) { int r; std::memcpy(&r, &v, 4); return r; }
inline float __int_as_float(int v) { float r; std::memcpy(&r, &v, 4); return r; }
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += int(int8_t(a >> 8 * i)) * int(int8_t(b >> 8 * i));
    return c;
}
using std::max;
using std::min;
using std::memcpy;

inline float half_bits_to_float(uint16_t bits) { return _cvtsh_ss(bits); }
inline uint16_t float_to_half_bits(float value) { return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT); }
