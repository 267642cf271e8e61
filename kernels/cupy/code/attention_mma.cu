// Attention for many queries in types of 16 bits, on tensor cores; scores never in memory.
// A block of four warps has 64 queries of a head and passes over 64 keys at a time; a warp has 16 of its queries.
//
// SIZE_16, VALUES_16: sizes of heads, rounded up to multiples of 16; VEC, VALUE_VEC: elements of an access to Q and
// K, to V; Y_VEC: to Y, 1 or 2.
#include "attention.cuh"
#include "mma.cuh"

#define TILE 64
#define PITCH (SIZE_16 + 8)  // rows begin in other banks each
#define VALUE_PITCH (VALUES_16 + 8)

// Rows of shared memory from those of a tensor, zeros where those end.
template <int WIDTH, int GOAL_PITCH, int ACCESS>
__device__ __forceinline__ void load_rows(T *goal, const T *from, long long step, int rows, int size) {
    typedef Vec<T, ACCESS> Access;
#pragma unroll 4
    for (int n = threadIdx.x; n < TILE * (WIDTH / ACCESS); n += 128) {
        int row = n / (WIDTH / ACCESS), element = n % (WIDTH / ACCESS) * ACCESS;
        Access held = {};
        if (row < rows && element < size) held = *(const Access *)(from + row * step + element);
        *(Access *)(goal + row * GOAL_PITCH + element) = held;
    }
}

__device__ __forceinline__ uint32_t pair_at(const T *from) { return *(const uint32_t *)from; }

#define BLOCKS (SIZE_16 + VALUES_16 <= 192 ? 3 : 2)  // of a multiprocessor at once

extern "C" __global__ void __launch_bounds__(128, BLOCKS)
attend_mma(const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v, const M *__restrict__ mask,
           const long long *__restrict__ lengths, T *__restrict__ y, long long *fault, Ints<6> sizes, Ints<12> steps,
           Ints<4> mask_steps, Ints<6> rules, double scale, double softcap, double fill) {
    __shared__ Vec<T, 8> eights_k[TILE * PITCH / 8];
    __shared__ Vec<T, 8> eights_v[TILE * VALUE_PITCH / 8];
    T *held_k = (T *)eights_k, *held_v = (T *)eights_v;
    int size = int(sizes.v[SIZE]), value_size = int(sizes.v[VALUE_SIZE]), queries = int(sizes.v[QUERIES]);
    unsigned tiles = unsigned((queries + TILE - 1) / TILE), heads = unsigned(sizes.v[HEADS]);
    // Those with the most keys first.
    int first_query = int(tiles - 1 - blockIdx.x % tiles) * TILE;
    unsigned head = blockIdx.x / tiles % heads, batch = blockIdx.x / tiles / heads;
    unsigned kv_head = head / (heads / unsigned(sizes.v[KV_HEADS]));
    q += batch * steps.v[OF_Q] + head * steps.v[OF_Q + 1] + first_query * steps.v[OF_Q + 2];
    k += batch * steps.v[OF_K] + kv_head * steps.v[OF_K + 1];
    v += batch * steps.v[OF_V] + kv_head * steps.v[OF_V + 1];
    y += batch * steps.v[OF_Y] + head * steps.v[OF_Y + 1] + first_query * steps.v[OF_Y + 2];
    int rows = min(TILE, queries - first_query), lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    int row = threadIdx.x / WARP * 16 + g;  // and row + 8

    load_rows<SIZE_16, PITCH, VEC>(held_k, q, steps.v[OF_Q + 2], rows, size);
    __syncthreads();
    uint32_t held_q[SIZE_16 / 16][4];
#pragma unroll
    for (int d = 0; d < SIZE_16 / 16; d++)
#pragma unroll
        for (int i = 0; i < 4; i++) held_q[d][i] = pair_at(held_k + (row + i % 2 * 8) * PITCH + d * 16 + i / 2 * 8 + 2 * t);

    Span spans[2];
    long long mask_rows[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        // Rows past the last query compute what the last one does.
        int i = first_query + min(row + 8 * r, rows - 1);
        spans[r] = span_of(sizes, rules, lengths, fault, int(batch), i);
        mask_rows[r] = batch * mask_steps.v[0] + head * mask_steps.v[1] + i * mask_steps.v[2];
    }
    int first = span_of(sizes, rules, lengths, fault, int(batch), first_query).first;
    int end = span_of(sizes, rules, lengths, fault, int(batch), first_query + rows - 1).end;

    float largest[2] = {-INFINITY, -INFINITY}, sums[2] = {}, values[VALUES_16 / 8][4] = {};
    bool seen[2] = {};
    for (int key = first / TILE * TILE; key < end; key += TILE) {
        __syncthreads();
        load_rows<SIZE_16, PITCH, VEC>(held_k, k + key * steps.v[OF_K + 2], steps.v[OF_K + 2], end - key, size);
        load_rows<VALUES_16, VALUE_PITCH, VALUE_VEC>(held_v, v + key * steps.v[OF_V + 2], steps.v[OF_V + 2], end - key,
                                                   value_size);
        __syncthreads();
        float scores[8][4] = {};
#pragma unroll
        for (int d = 0; d < SIZE_16 / 16; d++)
#pragma unroll
            for (int n = 0; n < 8; n++) {
                const T *from = held_k + (n * 8 + g) * PITCH + d * 16 + 2 * t;
                multiply_add<T>(scores[n], held_q[d], pair_at(from), pair_at(from + 8));
            }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float most = largest[r];
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    float &score = scores[n][2 * r + c];
                    int j = key + n * 8 + 2 * t + c;
                    if (j >= spans[r].first && j < spans[r].end)
                        score = scored(score * float(scale), float(softcap), mask, mask_rows[r] + j * mask_steps.v[3],
                                       rules.v[HIDES] != 0, float(fill), seen[r]);
                    else
                        score = -INFINITY;
                    most = larger(most, score);
                }
            for (int offset = 2; offset; offset >>= 1) most = larger(most, __shfl_xor_sync(FULL_WARP, most, offset));
            float shift = most == -INFINITY ? 0.0f : most;
            float factor = largest[r] == most ? 1.0f : exponential(largest[r] - shift);
            largest[r] = most;
            sums[r] *= factor;
#pragma unroll
            for (int n = 0; n < VALUES_16 / 8; n++) {
                values[n][2 * r] *= factor;
                values[n][2 * r + 1] *= factor;
            }
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    scores[n][2 * r + c] = power(scores[n][2 * r + c] - shift);
                    sums[r] += scores[n][2 * r + c];
                }
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            // Scores of 16 keys lie as the left side of a product needs them.
            uint32_t weights[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                weights[i] = pair_of<T>(scores[2 * j + i / 2][i % 2 * 2], scores[2 * j + i / 2][i % 2 * 2 + 1]);
            const T *from = held_v + (j * 16 + lane % 16) * VALUE_PITCH + lane / 16 * 8;
#pragma unroll
            for (int n = 0; n < VALUES_16 / 16; n++) {
                uint32_t right[4];
                load_transposed(right, from + n * 16);
                multiply_add<T>(values[2 * n], weights, right[0], right[1]);
                multiply_add<T>(values[2 * n + 1], weights, right[2], right[3]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int shown = seen[r];
        for (int offset = 2; offset; offset >>= 1) {
            sums[r] += __shfl_xor_sync(FULL_WARP, sums[r], offset);
            shown |= __shfl_xor_sync(FULL_WARP, shown, offset);
        }
        if (row + 8 * r >= rows) continue;
        float factor = normalizer(sums[r], shown != 0, rules.v[BLIND]);
        T *goal = y + (row + 8 * r) * steps.v[OF_Y + 2];
#pragma unroll
        for (int n = 0; n < VALUES_16 / 8; n++) {
            int column = n * 8 + 2 * t;
#if Y_VEC == 2
            uint32_t made = pair_of<T>(normalized(values[n][2 * r], factor), normalized(values[n][2 * r + 1], factor));
            if (column < value_size) *(uint32_t *)(goal + column) = made;
#else
#pragma unroll
            for (int c = 0; c < 2; c++)
                if (column + c < value_size) goal[column + c] = narrow<T>(normalized(values[n][2 * r + c], factor));
#endif
        }
    }
}
