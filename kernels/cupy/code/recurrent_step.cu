// One step of a recurrent layer, and what stands before the first. States lie as (D, N, H) in the wide type.
// PRODUCTS 0: a warp has a hidden unit and ROWS sequences, and computes their products with R; 1: those are there,
// (D, N, gates of the stage * H), and a thread has one of `count` states. STAGE: of a GRU's step (KIND 1): 1 leaves the update gate and what the reset has left
// of the state, 2 ends the step; 0 for all other kinds. VEC: elements of an access to R, a divisor of H.
#include "recurrent.cuh"

#define FIRST_GATE (STAGE == 2 ? 2 : 0)
#define END_GATE (STAGE == 1 ? 2 : GATES)
#define COUNT (END_GATE - FIRST_GATE)

extern "C" __global__ void __launch_bounds__(256)
begin_states(const T *__restrict__ initial_h, const T *__restrict__ initial_c, W *__restrict__ h, W *__restrict__ c,
             Sizes sizes, long long count) {
    long long at = first_index();
    if (at >= count) return;
    long long unit = at % sizes.v[HIDDEN], line = at / sizes.v[HIDDEN];
    long long from = line % sizes.v[BATCH] * sizes.v[S_N] + line / sizes.v[BATCH] * sizes.v[S_D] + unit;
    h[at] = initial_h ? W(widen(initial_h[from])) : W(0);
    if (c) c[at] = initial_c ? W(widen(initial_c[from])) : W(0);
}

extern "C" __global__ void __launch_bounds__(256)
one_step(const T *__restrict__ xw, const T *__restrict__ r, const T *__restrict__ b, const T *__restrict__ p,
     const int *__restrict__ lengths, const W *__restrict__ products, const W *__restrict__ h_before,
     W *__restrict__ h_after, W *__restrict__ c, W *__restrict__ update, W *__restrict__ reset, T *__restrict__ y,
     T *__restrict__ last_h, T *__restrict__ last_c, long long *fault, Sizes sizes, long long number, long long count, double fa,
     double fb, double ga, double gb, double ha, double hb, double limit) {
    Cell cell = {fa, fb, ga, gb, ha, hb, limit};
    int hidden = int(sizes.v[HIDDEN]), batch = int(sizes.v[BATCH]);
    W found[COUNT] = {};
#if PRODUCTS == 0
    unsigned units = unsigned((hidden + 7) / 8), tiles = unsigned((batch + ROWS - 1) / ROWS);
    int unit = int(blockIdx.x % units) * 8 + threadIdx.x / WARP, first = int(blockIdx.x / units % tiles) * ROWS;
    int lane = threadIdx.x % WARP, sequence = first + lane;
    long long direction = sizes.v[FIRST] + blockIdx.x / units / tiles, states = direction * batch * hidden;
    if (unit >= hidden) return;
    typedef Vec<T, VEC> Piece;
    typedef Vec<W, (VEC * sizeof(W) > 16 ? 16 / sizeof(W) : VEC)> Wides;
    constexpr int PART = sizeof(Wides) / sizeof(W);
    W sums[COUNT][ROWS] = {};
    const T *rows = r + (direction * GATES * hidden + FIRST_GATE * hidden + unit) * hidden;
    const W *vectors = (STAGE == 2 ? reset : h_before) + states;
#pragma unroll 2
    for (int k = lane * VEC; k < hidden; k += WARP * VEC) {
        Piece held[COUNT];
#pragma unroll
        for (int gate = 0; gate < COUNT; gate++) held[gate] = *(const Piece *)(rows + (long long)gate * hidden * hidden + k);
#pragma unroll
        for (int n = 0; n < ROWS; n++) {
            const W *vector = vectors + min(first + n, batch - 1) * hidden + k;
#pragma unroll
            for (int e = 0; e < VEC; e += PART) {
                Wides part = *(const Wides *)(vector + e);
#pragma unroll
                for (int i = 0; i < PART; i++)
#pragma unroll
                    for (int gate = 0; gate < COUNT; gate++) sums[gate][n] += W(widen(held[gate].v[e + i])) * part.v[i];
            }
        }
    }
    // Lane n goes on with sequence n.
#pragma unroll
    for (int n = 0; n < ROWS; n++)
#pragma unroll
        for (int gate = 0; gate < COUNT; gate++) {
            W sum = warp_all(sums[gate][n], Sum());
            if (lane == n) found[gate] = sum;
        }
    if (lane >= ROWS || sequence >= batch) return;
#else
    long long flat = first_index();
    if (flat >= count) return;
    int unit = int(flat % hidden), sequence = int(flat / hidden % batch);
    long long direction = sizes.v[FIRST] + flat / hidden / batch, states = direction * batch * hidden;
    const W *given = products + (direction * batch + sequence) * (long long)(COUNT * hidden) + unit;
#pragma unroll
    for (int gate = 0; gate < COUNT; gate++) found[gate] = given[(long long)gate * hidden];
#endif
    long long steps = sizes.v[STEPS], t = sizes.v[REVERSE] >> direction & 1 ? steps - 1 - number : number;
    long long at = states + (long long)sequence * hidden + unit;
    W h = h_before[at], memory = c ? c[at] : W(0);
    bool is_over = t >= length_of(lengths, sizes, sequence, fault);
    Biases biases = biases_of(b, sizes, direction, unit);
    const T *source = xw + (direction * steps * batch + t * sizes.v[X_T] + sequence * sizes.v[X_N]) * GATES * hidden + unit;
    W x[GATES];
#pragma unroll
    for (int gate = 0; gate < GATES; gate++) x[gate] = W(widen(source[(long long)gate * hidden])) + biases.outer[gate];
#if STAGE == 1
    update[at] = x[0] + found[0];
    reset[at] = cell.f(x[1] + found[1]) * h;
    return;
#else
    W r_products[GATES] = {};
#pragma unroll
    for (int gate = 0; gate < COUNT; gate++) r_products[FIRST_GATE + gate] = found[gate];
    if (STAGE == 2) x[0] = update[at];
    if (!is_over) advance(cell, x, r_products, biases.inner, peepholes_of(p, sizes, direction, unit), h, memory);
    h_after[at] = h;
    if (c) c[at] = memory;
    if (y)
        y[t * sizes.v[Y_T] + sequence * sizes.v[Y_N] + direction * sizes.v[Y_D] + unit] = narrow<T>(is_over ? W(0) : h);
    if (number == steps - 1) {
        long long goal = sequence * sizes.v[S_N] + direction * sizes.v[S_D] + unit;
        if (last_h) last_h[goal] = narrow<T>(h);
        if (last_c) last_c[goal] = narrow<T>(memory);
    }
#endif
}
