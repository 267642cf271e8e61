// All steps of a small recurrent layer: one block for each sequence and direction, which keeps R on the chip.
// A thread has DEPTH elements of a row of R, PARTS threads a row: KEPT of them in registers, the others in shared
// memory. THREADS: of a block, whole warps; PARTS is a power of two.
#include "recurrent.cuh"

#define REST (DEPTH - KEPT)
#define PART_PITCH (DEPTH + 16 / int(sizeof(W)))
#define PIECE (16 / int(sizeof(W)))

typedef Vec<W, PIECE> Piece;

// Sum over this thread's part of a row of R times a vector in shared memory.
__device__ __forceinline__ W part_of(const W (&kept)[KEPT], const W *rest, const W *vector) {
    W sums[PIECE] = {};
#pragma unroll
    for (int k = 0; k < KEPT; k += PIECE) {
        Piece held = *(const Piece *)(vector + k);
#pragma unroll
        for (int e = 0; e < PIECE; e++) sums[e] += kept[k + e] * held.v[e];
    }
#pragma unroll 4
    for (int k = 0; k < REST; k += PIECE) {
        Piece held = *(const Piece *)(vector + KEPT + k);
#pragma unroll
        for (int e = 0; e < PIECE; e++) sums[e] += rest[(k + e) * THREADS] * held.v[e];
    }
    W sum = sums[0];
#pragma unroll
    for (int e = 1; e < PIECE; e++) sum += sums[e];
#pragma unroll
    for (int offset = PARTS / 2; offset; offset >>= 1) sum += __shfl_xor_sync(FULL_WARP, sum, offset);
    return sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
scan(const T *__restrict__ xw, const T *__restrict__ r, const T *__restrict__ b, const T *__restrict__ p,
     const int *__restrict__ lengths, const T *__restrict__ initial_h, const T *__restrict__ initial_c,
     T *__restrict__ y, T *__restrict__ last_h, T *__restrict__ last_c, long long *fault, Sizes sizes, double fa,
     double fb, double ga, double gb, double ha, double hb, double limit) {
    extern __shared__ __align__(16) unsigned char memory[];
    __shared__ Piece pieces_h[PARTS * PART_PITCH / PIECE];
    __shared__ Piece pieces_reset[KIND == 1 ? PARTS * PART_PITCH / PIECE : 1];
    __shared__ W products[THREADS];
    W *held_h = (W *)pieces_h, *held_reset = (W *)pieces_reset, *rest = (W *)memory + threadIdx.x;
    Cell cell = {fa, fb, ga, gb, ha, hb, limit};
    int hidden = int(sizes.v[HIDDEN]), row = threadIdx.x / PARTS, begin = threadIdx.x % PARTS * DEPTH;
    long long sequence = blockIdx.x % sizes.v[BATCH], direction = sizes.v[FIRST] + blockIdx.x / sizes.v[BATCH];
    bool has_row = row < GATES * hidden;
    W kept[KEPT];
    const T *from = r + (direction * GATES * hidden + row) * hidden + begin;
#pragma unroll
    for (int k = 0; k < KEPT; k++) kept[k] = has_row && begin + k < hidden ? W(widen(from[k])) : W(0);
    for (int k = 0; k < REST; k++)
        rest[k * THREADS] = has_row && begin + KEPT + k < hidden ? W(widen(from[KEPT + k])) : W(0);

    int unit = threadIdx.x;
    bool has_unit = unit < hidden;
    // Where the unit's state is, as the parts read it.
    int place = unit / DEPTH * PART_PITCH + unit % DEPTH;
    long long at_state = sequence * sizes.v[S_N] + direction * sizes.v[S_D] + unit;
    W h = has_unit && initial_h ? W(widen(initial_h[at_state])) : W(0);
    W c = has_unit && initial_c ? W(widen(initial_c[at_state])) : W(0);
    Biases biases = {};
    Peepholes peepholes = {};
    if (has_unit) {
        biases = biases_of(b, sizes, direction, unit);
        peepholes = peepholes_of(p, sizes, direction, unit);
    }
    for (int k = threadIdx.x; k < PARTS * PART_PITCH; k += THREADS) {
        held_h[k] = W(0);
        if (KIND == 1) held_reset[k] = W(0);
    }
    __syncthreads();
    if (has_unit) held_h[place] = h;
    __syncthreads();
    const W *vector = held_h + threadIdx.x % PARTS * PART_PITCH;
    const W *reset = held_reset + threadIdx.x % PARTS * PART_PITCH;
    bool is_back = sizes.v[REVERSE] >> direction & 1;
    int steps = int(sizes.v[STEPS]), length = int(length_of(lengths, sizes, sequence, fault));
    xw += direction * steps * sizes.v[BATCH] * GATES * hidden + unit;
    if (y) y += sequence * sizes.v[Y_N] + direction * sizes.v[Y_D] + unit;
    for (int step = 0; step < steps; step++) {
        int t = is_back ? steps - 1 - step : step;
        // The same for the whole block.
        if (t >= length) {
            if (has_unit && y) y[t * sizes.v[Y_T]] = narrow<T>(W(0));
            continue;
        }
        W x[GATES];
        if (has_unit) {
            const T *source = xw + (t * sizes.v[X_T] + sequence * sizes.v[X_N]) * GATES * hidden;
#pragma unroll
            for (int gate = 0; gate < GATES; gate++) x[gate] = W(widen(source[gate * hidden])) + biases.outer[gate];
        }
        W product = part_of(kept, rest, vector);
        if (threadIdx.x % PARTS == 0) products[row] = product;
        __syncthreads();
#if KIND == 1
        if (has_unit) held_reset[place] = cell.f(x[1] + products[hidden + unit]) * h;
        __syncthreads();
        product = part_of(kept, rest, reset);
        if (threadIdx.x % PARTS == 0 && row >= 2 * hidden) products[row] = product;
        __syncthreads();
#endif
        if (has_unit) {
            W mine[GATES];
#pragma unroll
            for (int gate = 0; gate < GATES; gate++) mine[gate] = products[gate * hidden + unit];
            advance(cell, x, mine, biases.inner, peepholes, h, c);
            held_h[place] = h;
            if (y) y[t * sizes.v[Y_T]] = narrow<T>(h);
        }
        __syncthreads();
    }
    if (has_unit && last_h) last_h[at_state] = narrow<T>(h);
    if (has_unit && last_c) last_c[at_state] = narrow<T>(c);
}
