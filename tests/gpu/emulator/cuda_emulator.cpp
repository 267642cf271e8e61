// Runs the threads of emulated kernels; `cuda_emulator.h` tells what for.
#include "cuda_emulator.h"

#include <immintrin.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

namespace emulator {

constexpr size_t stack_bytes = 64 * 1024;

Fiber *fibers = nullptr;
unsigned fiber_count = 0;
Fiber *current = nullptr;
dim3 block_index, block_extent, grid_extent;
unsigned char *dynamic_shared = nullptr;

static std::vector<Fiber> all_fibers;
static char *stacks = nullptr;
static size_t stack_count = 0;
static void *scheduler = nullptr;
static KernelCode code;
static void **arguments = nullptr;
static size_t dynamic_bytes = 0;
static int order = 0;  // 0: forward, 1: backward, 2: warps rotate from barrier to barrier

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

static void leave() { emulator_switch(&current->stack_pointer, scheduler); }

static void enter() {
    code.run(arguments);
    current->state = State::done;
    leave();
    std::abort();
}

void barrier(int which) {
    current->barrier = which;
    current->state = State::at_barrier;
    leave();
}

void warp_barrier() {
    current->state = State::at_warp;
    leave();
}

int lane() { return int(current - fibers) % 32; }

static void prepare(unsigned count) {
    if (stack_count < count) {
        std::free(stacks);
        stacks = static_cast<char *>(std::aligned_alloc(64, count * stack_bytes));
        stack_count = count;
    }
    all_fibers.resize(count);
    fibers = all_fibers.data();
    fiber_count = count;
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
static bool run_warp(unsigned begin, unsigned end) {
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

static const char *run_block() {
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
        for (Fiber &fiber : all_fibers) {
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

// Shared memory holds anything when a block begins.
static void spoil_shared() {
    memset(dynamic_shared, 0xFF, dynamic_bytes);
    if (code.shared_begin) memset(code.shared_begin, 0xFF, code.shared_end - code.shared_begin);
}

#if defined(__SANITIZE_ADDRESS__)
extern "C" void __asan_poison_memory_region(void const volatile *, size_t);
#endif

const char *launch(KernelCode code_, void **arguments_, dim3 grid, dim3 block, size_t shared, int order_) {
    code = code_;
    arguments = arguments_;
    order = order_;
    grid_extent = grid;
    block_extent = block;
    dynamic_bytes = shared;
    size_t allocated = (shared + 127) / 128 * 128 + 128;
    dynamic_shared = static_cast<unsigned char *>(std::aligned_alloc(128, allocated));
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(dynamic_shared + shared, allocated - shared);
#endif
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

uint64_t exchange_bits(uint64_t value, int source) {
    current->exchange = value;
    warp_barrier();
    size_t first = (current - fibers) & ~size_t(31);
    uint64_t result = fibers[std::min(first + (source & 31), size_t(fiber_count) - 1)].exchange;
    warp_barrier();
    return result;
}

unsigned ballot(bool vote) {
    unsigned all = 0;
    current->exchange = vote;
    warp_barrier();
    size_t first = (current - fibers) & ~size_t(31);
    for (size_t t = first; t < std::min(first + 32, size_t(fiber_count)); t++)
        all |= unsigned(fibers[t].state != State::done && fibers[t].exchange) << (t - first);
    warp_barrier();
    return all;
}

}  // namespace emulator

float half_bits_to_float(uint16_t bits) { return _cvtsh_ss(bits); }
uint16_t float_to_half_bits(float value) { return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT); }
