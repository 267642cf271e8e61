// Attention for many queries: softmax on the way over the keys, scores never in memory.
// A block has TILE = 16 * ROWS queries of a head and passes over 64 keys at a time. Its 256 threads lie as 16 by 16:
// ROWS queries by 4 keys of the scores each, ROWS queries by COLUMNS elements of the values' sums.
//
// DEPTH: elements of keys in shared memory at a time; FEW: keys whose values are there; COLUMNS: elements of Y
// of a thread; CV: neighbours among them; VEC, VALUE_VEC: elements of an access to Q and K, to V; Y_VEC: to Y.
#include "attention.cuh"

#define TILE (16 * ROWS)
#define AT_ONCE 64
#define PITCH (TILE + 16 / int(sizeof(W)))
#define KEY_PITCH (AT_ONCE + 16 / int(sizeof(W)))
#define WIDTH (16 * COLUMNS)
#define PIECE (ROWS * int(sizeof(W)) > 16 ? 16 / int(sizeof(W)) : ROWS)
#define KEY_PIECE (16 / int(sizeof(W)))

// Thread x has keys x, x + 16, x + 32, x + 48, and reads them as neighbours.
__device__ __forceinline__ int place_of_key(int key) { return key % 16 * 4 + key / 16; }

// COUNT elements of each of ROWS_ rows go to goal[element][place of the row]; zeros behind `rows` and `left` elements.
template <int ROWS_, int COUNT, int PITCH_, bool KEYS_>
__device__ __forceinline__ void load_across(W *goal, const T *from, long long step, int rows, int left, W factor) {
    typedef Vec<T, VEC> Access;
#pragma unroll 4
    for (int n = threadIdx.x; n < ROWS_ * (COUNT / VEC); n += 256) {
        int row = n / (COUNT / VEC), element = n % (COUNT / VEC) * VEC;
        Access held = {};
        if (row < rows && element < left) held = *(const Access *)(from + row * step + element);
        int place = KEYS_ ? place_of_key(row) : row;
#pragma unroll
        for (int e = 0; e < VEC; e++) goal[(element + e) * PITCH_ + place] = widen(held.v[e]) * factor;
    }
}

#define BLOCKS (ROWS < 8 && ROWS * COLUMNS <= 32 ? 2 : 1)  // of a multiprocessor at once

extern "C" __global__ void __launch_bounds__(256, BLOCKS)
attend(const T *__restrict__ q, const T *__restrict__ k, const T *__restrict__ v, const M *__restrict__ mask,
       const long long *__restrict__ lengths, T *__restrict__ y, long long *fault, Ints<6> sizes, Ints<12> steps,
       Ints<4> mask_steps, Ints<6> rules, double scale, double softcap, double fill) {
    extern __shared__ __align__(16) unsigned char memory[];
    int size = int(sizes.v[SIZE]), value_size = int(sizes.v[VALUE_SIZE]), queries = int(sizes.v[QUERIES]);
    int padded = (size + DEPTH - 1) / DEPTH * DEPTH;
    W *held_q = (W *)memory, *held_p = held_q + padded * PITCH, *held_k = held_p + AT_ONCE * PITCH;
    W *held_v = held_k + DEPTH * KEY_PITCH;
    unsigned tiles = unsigned((queries + TILE - 1) / TILE), heads = unsigned(sizes.v[HEADS]);
    // Those with the most keys first.
    int first_query = int(tiles - 1 - blockIdx.x % tiles) * TILE;
    unsigned head = blockIdx.x / tiles % heads, batch = blockIdx.x / tiles / heads;
    unsigned kv_head = head / (heads / unsigned(sizes.v[KV_HEADS]));
    q += batch * steps.v[OF_Q] + head * steps.v[OF_Q + 1] + first_query * steps.v[OF_Q + 2];
    k += batch * steps.v[OF_K] + kv_head * steps.v[OF_K + 1];
    v += batch * steps.v[OF_V] + kv_head * steps.v[OF_V + 1];
    y += batch * steps.v[OF_Y] + head * steps.v[OF_Y + 1] + first_query * steps.v[OF_Y + 2];
    long long mask_row = batch * mask_steps.v[0] + head * mask_steps.v[1] + first_query * mask_steps.v[2];
    int x = threadIdx.x % 16, row = threadIdx.x / 16 * ROWS, rows = min(TILE, queries - first_query);

    for (int d = 0; d < padded; d += DEPTH)
        load_across<TILE, DEPTH, PITCH, false>(held_q + d * PITCH, q + d, steps.v[OF_Q + 2], rows, size - d, W(scale));
    Span spans[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        spans[r] = span_of(sizes, rules, lengths, fault, batch, first_query + min(row + r, rows - 1));
    int first = span_of(sizes, rules, lengths, fault, batch, first_query).first;
    int end = span_of(sizes, rules, lengths, fault, batch, first_query + rows - 1).end;

    W largest[ROWS], sums[ROWS], values[ROWS][COLUMNS] = {};
    bool seen[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        largest[r] = W(-INFINITY);
        sums[r] = W(0);
        seen[r] = false;
    }
    for (int key = first / AT_ONCE * AT_ONCE; key < end; key += AT_ONCE) {
        W scores[ROWS][4] = {};
        for (int d = 0; d < padded; d += DEPTH) {
            __syncthreads();
            load_across<AT_ONCE, DEPTH, KEY_PITCH, true>(held_k, k + key * steps.v[OF_K + 2] + d, steps.v[OF_K + 2],
                                                        end - key, size - d, W(1));
            __syncthreads();
#pragma unroll 4
            for (int e = 0; e < DEPTH; e++) {
                Vec<W, PIECE> left[ROWS / PIECE];
                Vec<W, KEY_PIECE> right[4 / KEY_PIECE];
#pragma unroll
                for (int r = 0; r < ROWS; r += PIECE)
                    left[r / PIECE] = *(const Vec<W, PIECE> *)(held_q + (d + e) * PITCH + row + r);
#pragma unroll
                for (int c = 0; c < 4; c += KEY_PIECE)
                    right[c / KEY_PIECE] = *(const Vec<W, KEY_PIECE> *)(held_k + e * KEY_PITCH + x * 4 + c);
#pragma unroll
                for (int r = 0; r < ROWS; r++)
#pragma unroll
                    for (int c = 0; c < 4; c++)
                        scores[r][c] += left[r / PIECE].v[r % PIECE] * right[c / KEY_PIECE].v[c % KEY_PIECE];
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            W most = largest[r];
#pragma unroll
            for (int c = 0; c < 4; c++) {
                int j = key + x + 16 * c;
                bool visible = j >= spans[r].first && j < spans[r].end;
                if (visible) {
                    long long at = mask_row + (row + r) * mask_steps.v[2] + j * mask_steps.v[3];
                    // Rows past the last query compute what the last one does, without its mask.
                    if (row + r >= rows) at = mask_row;
                    scores[r][c] = scored(scores[r][c], W(softcap), mask, at, rules.v[HIDES] != 0, W(fill), seen[r]);
                } else {
                    scores[r][c] = W(-INFINITY);
                }
                most = larger(most, scores[r][c]);
            }
            for (int offset = 8; offset; offset >>= 1) most = larger(most, __shfl_xor_sync(FULL_WARP, most, offset));
            W shift = most == W(-INFINITY) ? W(0) : most;
            W factor = largest[r] == most ? W(1) : exponential(largest[r] - shift);
            largest[r] = most;
            sums[r] *= factor;
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) values[r][c] *= factor;
#pragma unroll
            for (int c = 0; c < 4; c++) {
                scores[r][c] = power(scores[r][c] - shift);
                sums[r] += scores[r][c];
            }
        }
#pragma unroll
        for (int c = 0; c < 4; c++)
#pragma unroll
            for (int r = 0; r < ROWS; r++) held_p[(x + 16 * c) * PITCH + row + r] = scores[r][c];
        int keys = min(AT_ONCE, end - key);
        for (int j = 0; j < keys; j += FEW) {
            __syncthreads();
            for (int n = threadIdx.x; n < FEW * (WIDTH / VALUE_VEC); n += 256) {
                int at = n / (WIDTH / VALUE_VEC), element = n % (WIDTH / VALUE_VEC) * VALUE_VEC;
                Vec<T, VALUE_VEC> held = {};
                if (j + at < keys && element < value_size)
                    held = *(const Vec<T, VALUE_VEC> *)(v + (key + j + at) * steps.v[OF_V + 2] + element);
#pragma unroll
                for (int e = 0; e < VALUE_VEC; e++) held_v[at * WIDTH + element + e] = widen(held.v[e]);
            }
            __syncthreads();
#pragma unroll 4
            for (int e = 0; e < FEW; e++) {
                Vec<W, PIECE> left[ROWS / PIECE];
                Vec<W, CV> right[COLUMNS / CV];
#pragma unroll
                for (int r = 0; r < ROWS; r += PIECE)
                    left[r / PIECE] = *(const Vec<W, PIECE> *)(held_p + (j + e) * PITCH + row + r);
#pragma unroll
                for (int c = 0; c < COLUMNS; c += CV)
                    right[c / CV] = *(const Vec<W, CV> *)(held_v + e * WIDTH + (x + 16 * (c / CV)) * CV);
#pragma unroll
                for (int r = 0; r < ROWS; r++)
#pragma unroll
                    for (int c = 0; c < COLUMNS; c++)
                        values[r][c] += left[r / PIECE].v[r % PIECE] * right[c / CV].v[c % CV];
            }
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        int shown = seen[r];
        for (int offset = 8; offset; offset >>= 1) {
            sums[r] += __shfl_xor_sync(FULL_WARP, sums[r], offset);
            shown |= __shfl_xor_sync(FULL_WARP, shown, offset);
        }
        if (row + r >= rows) continue;
        W factor = normalizer(sums[r], shown != 0, rules.v[BLIND]);
        T *goal = y + (row + r) * steps.v[OF_Y + 2];
#pragma unroll
        for (int c = 0; c < COLUMNS; c += Y_VEC) {
            int column = (x + 16 * (c / CV)) * CV + c % CV;
            Vec<T, Y_VEC> made;
#pragma unroll
            for (int e = 0; e < Y_VEC; e++) made.v[e] = narrow<T>(normalized(values[r][c + e], factor));
            if (column < value_size) *(Vec<T, Y_VEC> *)(goal + column) = made;
        }
    }
}
