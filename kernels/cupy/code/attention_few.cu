// Attention for few queries, as in decoding: keys and values are read once, at the speed of memory.
// A block has ROWS of the queries that share a head of K and V, and one of `splits` parts of the keys they see, as
// long as the lengths on the device say. GROUP threads share a key; a block of 128 has 128 / GROUP such units, each
// with KEYS_AT_ONCE keys on their way. The last block of a tile of queries joins the parts of all. Sums are joined in an
// order that only shape and lengths decide.
//
// VEC: elements of an access; PIECES, VALUE_PIECES: accesses of a thread to a row of K, of V.
#include "attention.cuh"
#include "arrivals.cuh"

#define THREADS 128
#define UNITS (THREADS / GROUP)
#define KEYS_AT_ONCE 4
#define STEP (UNITS * KEYS_AT_ONCE)
#define HELD (VALUE_PIECES * VEC)

typedef Vec<T, VEC> Access;

// Joins `splits` parts of each row: by a warp for a row first, which leaves in `factors` what each part counts for, then
// by a thread for an element. `store(row, column, value)` takes the results.
template <class Store>
__device__ __forceinline__ void join(const W *parts, int rows, int splits, int value_size, long long blind, W *factors,
                                     Store store) {
    int pitch = value_size + 3, r = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (r < rows) {
        const W *from = parts + (long long)r * splits * pitch;
        W most = W(-INFINITY), sum = 0, seen = 0;
        for (int s = lane; s < splits; s += WARP) most = larger(most, from[s * pitch]);
        for (int offset = WARP / 2; offset; offset >>= 1)
            most = larger(most, __shfl_xor_sync(FULL_WARP, most, offset));
        for (int s = lane; s < splits; s += WARP) {
            W one = from[s * pitch], factor = one == most ? W(1) : exponential(one - most);
            factors[r * splits + s] = factor;
            sum += from[s * pitch + 1] * factor;
            seen += from[s * pitch + 2];
        }
        sum = warp_all(sum, Sum());
        seen = warp_all(seen, Sum());
        W factor = normalizer(sum, seen != W(0), blind);
        if (lane == 0) factors[ROWS * splits + r] = factor;
    }
    __syncthreads();
    for (int n = threadIdx.x; n < rows * value_size; n += THREADS) {
        int row = n / value_size, column = n % value_size;
        const W *from = parts + (long long)row * splits * pitch + 3 + column;
        W value = 0;
#pragma unroll 8
        for (int s = 0; s < splits; s++) value += from[s * pitch] * factors[row * splits + s];
        store(row, column, normalized(value, factors[ROWS * splits + row]));
    }
}

extern "C" __global__ void __launch_bounds__(128, 3)
attend_few(const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v, const M *__restrict__ mask,
           const long long *__restrict__ lengths, T *__restrict__ y, W *parts, unsigned *arrived,
           long long *fault, Ints<6> sizes, Ints<12> steps, Ints<4> mask_steps, Ints<6> rules, long long splits, double scale,
           double softcap, double fill) {
    __shared__ W held_largest[UNITS][ROWS], held_sums[UNITS][ROWS], held_values[UNITS][ROWS][GROUP * HELD];
    __shared__ int held_seen[UNITS][ROWS];
    __shared__ bool is_last;
    int queries = int(sizes.v[QUERIES]), kv_heads = int(sizes.v[KV_HEADS]), size = int(sizes.v[SIZE]);
    int value_size = int(sizes.v[VALUE_SIZE]), group = int(sizes.v[HEADS]) / kv_heads;
    int all = queries * group, tiles = (all + ROWS - 1) / ROWS;
    int split = int(blockIdx.x % unsigned(splits));
    unsigned rest = blockIdx.x / unsigned(splits);
    int first_row = int(rest % unsigned(tiles)) * ROWS;
    unsigned kv_unit = rest / unsigned(tiles), kv_head = kv_unit % unsigned(kv_heads);
    int batch = int(kv_unit / unsigned(kv_heads));
    int lane = threadIdx.x % GROUP, unit = threadIdx.x / GROUP;
    k += batch * steps.v[OF_K] + kv_head * steps.v[OF_K + 1];
    v += batch * steps.v[OF_V] + kv_head * steps.v[OF_V + 1];

    W held_q[ROWS][PIECES][VEC];
    Span spans[ROWS];
    long long mask_rows[ROWS];
    int first = 0x7fffffff, end = 0;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        int row = min(first_row + r, all - 1), head = int(kv_head) * group + row / queries, i = row % queries;
        spans[r] = span_of(sizes, rules, lengths, fault, batch, i);
        if (spans[r].first < spans[r].end) {
            first = min(first, spans[r].first);
            end = max(end, spans[r].end);
        }
        mask_rows[r] = batch * mask_steps.v[0] + head * mask_steps.v[1] + i * mask_steps.v[2];
        const T *from = q + batch * steps.v[OF_Q] + head * steps.v[OF_Q + 1] + i * steps.v[OF_Q + 2];
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
            int element = (p * GROUP + lane) * VEC;
            Access held = {};
            if (element < size) held = *(const Access *)(from + element);
#pragma unroll
            for (int e = 0; e < VEC; e++) held_q[r][p][e] = widen(held.v[e]) * W(scale);
        }
    }
    first = min(first, end);
    int depth = ((end - first + int(splits) - 1) / int(splits) + STEP - 1) / STEP * STEP;
    long long begin = first + (long long)split * depth;
    int stop = int(min((long long)end, begin + depth));

    W largest[ROWS], sums[ROWS], values[ROWS][HELD] = {};
    bool seen[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        largest[r] = W(-INFINITY);
        sums[r] = W(0);
        seen[r] = false;
    }
    for (long long base = begin; base < stop; base += STEP) {
        int key = int(base) + unit * KEYS_AT_ONCE;
        Access held_k[KEYS_AT_ONCE][PIECES], held_v[KEYS_AT_ONCE][VALUE_PIECES];
#pragma unroll
        for (int u = 0; u < KEYS_AT_ONCE; u++)
#pragma unroll
            for (int p = 0; p < PIECES; p++) {
                int element = (p * GROUP + lane) * VEC;
                held_k[u][p] = {};
                if (key + u < stop && element < size)
                    held_k[u][p] = *(const Access *)(k + (key + u) * steps.v[OF_K + 2] + element);
            }
#pragma unroll
        for (int u = 0; u < KEYS_AT_ONCE; u++)
#pragma unroll
            for (int p = 0; p < VALUE_PIECES; p++) {
                int element = (p * GROUP + lane) * VEC;
                held_v[u][p] = {};
                if (key + u < stop && element < value_size)
                    held_v[u][p] = *(const Access *)(v + (key + u) * steps.v[OF_V + 2] + element);
            }
        W scores[ROWS][KEYS_AT_ONCE] = {};
#pragma unroll
        for (int u = 0; u < KEYS_AT_ONCE; u++)
#pragma unroll
            for (int p = 0; p < PIECES; p++)
#pragma unroll
                for (int e = 0; e < VEC; e++) {
                    W element = widen(held_k[u][p].v[e]);
#pragma unroll
                    for (int r = 0; r < ROWS; r++) scores[r][u] += held_q[r][p][e] * element;
                }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            W most = largest[r];
#pragma unroll
            for (int u = 0; u < KEYS_AT_ONCE; u++) {
#pragma unroll
                for (int offset = GROUP / 2; offset; offset >>= 1)
                    scores[r][u] += __shfl_xor_sync(FULL_WARP, scores[r][u], offset);
                int j = key + u;
                if (j < stop && j >= spans[r].first && j < spans[r].end) {
                    scores[r][u] = scored(scores[r][u], W(softcap), mask, mask_rows[r] + j * mask_steps.v[3],
                                          rules.v[HIDES] != 0, W(fill), seen[r]);
                } else {
                    scores[r][u] = W(-INFINITY);
                }
                most = larger(most, scores[r][u]);
            }
            W shift = most == W(-INFINITY) ? W(0) : most;
            W factor = largest[r] == most ? W(1) : exponential(largest[r] - shift);
            largest[r] = most;
            sums[r] *= factor;
#pragma unroll
            for (int c = 0; c < HELD; c++) values[r][c] *= factor;
#pragma unroll
            for (int u = 0; u < KEYS_AT_ONCE; u++) {
                W weight = power(scores[r][u] - shift);
                sums[r] += weight;
#pragma unroll
                for (int c = 0; c < HELD; c++) values[r][c] += weight * W(widen(held_v[u][c / VEC].v[c % VEC]));
            }
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (lane == 0) {
            held_largest[unit][r] = largest[r];
            held_sums[unit][r] = sums[r];
            held_seen[unit][r] = seen[r];
        }
#pragma unroll
        for (int c = 0; c < HELD; c++) held_values[unit][r][(c / VEC * GROUP + lane) * VEC + c % VEC] = values[r][c];
    }
    __syncthreads();
    auto store = [&](int r, int column, W value) {
        int row = first_row + r, head = int(kv_head) * group + row / queries;
        T *goal = y + batch * steps.v[OF_Y] + head * steps.v[OF_Y + 1] + row % queries * steps.v[OF_Y + 2];
        goal[column] = narrow<T>(value);
    };
    parts += ((long long)kv_unit * all + first_row) * splits * (value_size + 3);
    for (int n = threadIdx.x; n < ROWS * value_size; n += THREADS) {
        int r = n / value_size, column = n % value_size;
        if (first_row + r >= all) continue;
        W most = W(-INFINITY), sum = 0, value = 0;
        int shown = 0;
        for (int u = 0; u < UNITS; u++) most = larger(most, held_largest[u][r]);
        for (int u = 0; u < UNITS; u++) {
            W factor = held_largest[u][r] == most ? W(1) : exponential(held_largest[u][r] - most);
            sum += held_sums[u][r] * factor;
            value += held_values[u][r][column] * factor;
            shown |= held_seen[u][r];
        }
        if (splits == 1) {
            store(r, column, normalized(value, normalizer(sum, shown != 0, rules.v[BLIND])));
            continue;
        }
        W *part = parts + ((long long)r * splits + split) * (value_size + 3);
        part[3 + column] = value;
        if (column == 0) {
            part[0] = most;
            part[1] = sum;
            part[2] = W(shown);
        }
    }
    if (splits == 1 || !arrives_last(arrived + rest, unsigned(splits), &is_last)) return;
    join(parts, min(ROWS, all - first_row), int(splits), value_size, rules.v[BLIND], &held_values[0][0][0], store);
}
