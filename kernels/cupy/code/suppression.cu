// NonMaxSuppression, class by class: candidates are collected and sorted, then go through one block, best
// first, in chunks: against the boxes that were kept before, and among themselves by bits. Keys are 64 bits:
// the rank of the score, smaller for what comes first, above the number of the box; NaN comes last.
// The arithmetic is that of the reference, operation by operation: no product may become part of a sum.
// CENTER: boxes are centers and sizes, not corners.
#define GROUP 0
#include "elementwise.cuh"
#include "row_groups.cuh"
#include "sorting.cuh"

#define CHUNK 256
#define WORDS (CHUNK / 64)

struct Box { float low, left, high, right, area; };

// A NaN anywhere makes the area one.
__device__ __forceinline__ Box box_of(const float *__restrict__ boxes, uint32_t number) {
    Vec<float, 4> given = *(const Vec<float, 4> *)(boxes + 4 * (long long)number);
    float a = given.v[0], b = given.v[1], c = given.v[2], d = given.v[3];
    Box box;
#if CENTER
    float half_c = multiply(c, 0.5f), half_d = multiply(d, 0.5f);
    box.low = a - half_c, box.left = b - half_d, box.high = a + half_c, box.right = b + half_d;
#else
    box.low = min_nan(a, c), box.left = min_nan(b, d), box.high = max_nan(a, c), box.right = max_nan(b, d);
#endif
    box.area = multiply(max_nan(box.high - box.low, 0.0f), max_nan(box.right - box.left, 0.0f));
    return box;
}

// A quotient of floats rounds to more than `value`, from 0 to 1, if it is above the middle to the next float,
// or is that middle and `value` is odd. A float times the middle is exact in double, so nothing is divided.
struct Threshold { float value; double middle; bool is_odd; };

__device__ __forceinline__ Threshold threshold_of(const float *__restrict__ given) {
    float value = given ? *given + 0.0f : 0.0f;
    uint32_t bits = float_bits(value);
    return {value, (double(value) + double(bits_float(bits + 1))) * 0.5, bool(bits & 1)};
}

// Whether two boxes overlap too much. Where an extent is NaN, so is an area, and nothing is above the threshold.
__device__ __forceinline__ bool is_over(const Box &a, const Box &b, const Threshold &threshold) {
    float height = fmaxf(fminf(a.high, b.high) - fmaxf(a.low, b.low), 0.0f);
    float width = fmaxf(fminf(a.right, b.right) - fmaxf(a.left, b.left), 0.0f);
    float shared = multiply(height, width);
    float both = a.area + b.area;
    float either = both - shared;
    if (!(shared > 0.0f && shared >= multiply(threshold.value, either))) return false;  // mostly
    double least = threshold.middle * double(either);
    return shared > least || (shared == least && threshold.is_odd);
}

__device__ __forceinline__ uint64_t key_of(float score, long long box) {
    uint32_t bits = float_bits(score), rank = bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
    if (score == 0.0f) rank = 0x7fffffffu;
    if (score != score) rank = 0xffffffffu;
    return uint64_t(rank) << 32 | uint64_t(box);
}

// A block writes the keys of a class's scores that are not below `least` (null: of all), in any order.
extern "C" __global__ void collect(const float *__restrict__ scores, const float *__restrict__ least,
                                   uint64_t *__restrict__ keys, int *__restrict__ counts, long long n) {
    __shared__ int held;
    if (threadIdx.x == 0) held = 0;
    __syncthreads();
    const float *row = scores + blockIdx.x * n;
    uint64_t *goal = keys + blockIdx.x * n;
    int lane = threadIdx.x % WARP;
    for (long long begin = 0; begin < n; begin += 4 * (long long)blockDim.x) {
        float score[4];
        for (int k = 0; k < 4; k++) {
            long long i = begin + k * (long long)blockDim.x + threadIdx.x;
            score[k] = i < n ? row[i] : 0.0f;
        }
        for (int k = 0; k < 4; k++) {
            long long i = begin + k * (long long)blockDim.x + threadIdx.x;
            bool passes = i < n && (!least || score[k] >= *least);
            unsigned votes = __ballot_sync(FULL_WARP, passes);
            int place = 0;
            if (lane == 0 && votes) place = atomicAdd(&held, __popc(votes));
            place = __shfl_sync(FULL_WARP, place, 0) + __popc(votes & ((1u << lane) - 1));
            if (passes) goal[place] = key_of(score[k], i);
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) counts[blockIdx.x] = held;
}

// A block sorts a piece of `width` (a power of two) of a class's keys in its place; `parts` may cover a row of n.
extern "C" __global__ void sort_pieces(uint64_t *__restrict__ keys, const int *__restrict__ counts,
                                       long long n, long long parts, long long width) {
    extern __shared__ __align__(16) unsigned char memory[];
    uint64_t *held = (uint64_t *)memory;
    long long row = quotient(blockIdx.x, parts), begin = (blockIdx.x - row * parts) * width;
    long long size = min((long long)counts[row] - begin, width);
    if (size <= 0) return;
    int padded = 1;
    while (padded < size) padded *= 2;
    uint64_t *piece = keys + row * n + begin;
    for (int i = threadIdx.x; i < padded; i += blockDim.x) held[i] = i < size ? piece[i] : ~uint64_t(0);
    __syncthreads();
    sort_shared(held, padded, padded);
    for (int i = threadIdx.x; i < size; i += blockDim.x) piece[i] = held[i];
}

// Merges sorted runs of `run` keys, two and two; the keys of a class that is one run stay where they are.
extern "C" __global__ void merge_runs(const uint64_t *__restrict__ source, uint64_t *__restrict__ goal,
                                      const int *__restrict__ counts, long long total, long long n,
                                      long long run) {
    long long i = first_index();
    if (i >= total) return;
    long long row = quotient(i, n), at = i - row * n, count = counts[row];
    if (count <= run || at >= count) return;
    goal[row * n + merged_place(source + row * n, at, count, run)] = source[i];
}

// A block finds the boxes that are kept of a class, `limit` at most. Where merging ended, in `keys` or in
// `merged`, follows from the count and the first `run`.
extern "C" __global__ void __launch_bounds__(512)
    suppress(const float *__restrict__ boxes, const uint64_t *__restrict__ keys,
             const uint64_t *__restrict__ merged, int *__restrict__ counts,
             const float *__restrict__ iou_threshold, int *__restrict__ found, long long n, long long classes,
             long long run, long long limit) {
    __shared__ Box held[CHUNK], others[CHUNK];
    __shared__ int numbers[CHUNK], dead[CHUNK], kept;
    __shared__ uint64_t over[CHUNK * WORDS];
    __shared__ unsigned left[2 * WORDS];
    long long row = blockIdx.x, count = counts[row];
    const float *own = boxes + 4 * n * quotient(row, classes);
    const uint64_t *sorted = keys;
    for (; run < count; run *= 2) sorted = sorted == keys ? merged : keys;
    sorted += row * n;
    found += row * limit;
    Threshold threshold = threshold_of(iou_threshold);
    int at = threadIdx.x % CHUNK, part = threadIdx.x / CHUNK, parts = blockDim.x / CHUNK;
    if (threadIdx.x == 0) kept = 0;
    __syncthreads();
    for (long long begin = 0; begin < count && kept < limit; begin += CHUNK) {
        int size = int(min(count - begin, (long long)CHUNK));
        if (part == 0) {
            if (at < size) {
                numbers[at] = int(uint32_t(sorted[begin + at]));
                held[at] = box_of(own, numbers[at]);
            }
            dead[at] = at >= size;
        }
        __syncthreads();
        bool hit = false;
        for (int first = 0; first < kept; first += CHUNK) {
            int most = min(kept - first, CHUNK);
            if (part == 0 && at < most) others[at] = box_of(own, found[first + at]);
            __syncthreads();
            if (at < size && !hit)
                for (int j = part; j < most && !hit; j += parts) hit = is_over(held[at], others[j], threshold);
            __syncthreads();
        }
        if (hit) dead[at] = 1;
        __syncthreads();
        // Bit j of word w of a box: whether it suppresses box 64 * w + j, which comes after it.
        for (int word = part; word < WORDS; word += parts) {
            uint64_t bits = 0;
            int first = max(64 * word, at + 1), end = min(64 * word + 64, size);
            if (!dead[at])
                for (int j = first; j < end; j++)
                    if (is_over(held[at], held[j], threshold)) bits |= uint64_t(1) << (j - 64 * word);
            over[at * WORDS + word] = bits;
        }
        if (part == 0) {
            unsigned votes = __ballot_sync(FULL_WARP, !dead[at]);
            if (at % WARP == 0) left[at / WARP] = votes;
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            uint64_t alive[WORDS];
            for (int word = 0; word < WORDS; word++)
                alive[word] = left[2 * word] | uint64_t(left[2 * word + 1]) << 32;
            int chosen = kept;
#pragma unroll
            for (int word = 0; word < WORDS; word++)
                while (alive[word] && chosen < limit) {
                    unsigned lower = unsigned(alive[word]);
                    int bit = lower ? __ffs(lower) - 1 : 31 + __ffs(unsigned(alive[word] >> 32));
                    int box = 64 * word + bit;
                    found[chosen++] = numbers[box];
                    alive[word] &= alive[word] - 1;
#pragma unroll
                    for (int other = word; other < WORDS; other++) alive[other] &= ~over[box * WORDS + other];
                }
            kept = chosen;
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) counts[row] = kept;
}

// A block writes (batch, class, box) of a class's boxes behind those of the classes before, and zeros into its
// share of the places behind all rows. The first one checks the threshold, and writes the count of all.
extern "C" __global__ void gather_rows(const int *__restrict__ found, const int *__restrict__ counts,
                                       const float *__restrict__ iou_threshold, int64_t *__restrict__ rows,
                                       int64_t *__restrict__ count, int64_t *__restrict__ fault,
                                       long long pairs, long long classes, long long limit) {
    __shared__ long long partial[WARP];
    long long row = blockIdx.x, before_it = 0, total = 0;
    for (long long i = threadIdx.x; i < pairs; i += blockDim.x) {
        if (i < row) before_it += counts[i];
        total += counts[i];
    }
    before_it = block_all(before_it, Sum(), partial);
    total = block_all(total, Sum(), partial);
    if (row == 0 && threadIdx.x == 0) {
        if (iou_threshold && !(*iou_threshold >= 0.0f && *iou_threshold <= 1.0f)) *fault = 1;
        if (count) *count = total;
    }
    if (row >= pairs) return;
    long long batch = quotient(row, classes), own = counts[row];
    for (long long i = threadIdx.x; i < own; i += blockDim.x) {
        int64_t *goal = rows + 3 * (before_it + i);
        goal[0] = batch, goal[1] = row - batch * classes, goal[2] = found[row * limit + i];
    }
    long long end = 3 * limit * (row + 1);
    for (long long i = 3 * max(total, limit * row) + threadIdx.x; i < end; i += blockDim.x) rows[i] = 0;
}
