// TopK: sorts pieces of rows in shared memory, by keys whose order is that wanted, equal ones by index.
// T: element type; K: unsigned integer that holds a key; BITS: of an element; LARGEST: descending order.
// KIND: 0 unsigned, 1 signed, 2 floating-point, with NAN_ABOVE: magnitudes above it are NaN.
// FROM_PAIRS: the source holds keys with indices instead of elements. TO_PAIRS: so does the goal.
#define GROUP 0
#include "row_groups.cuh"
#include "sorting.cuh"

struct alignas(2 * sizeof(K)) Pair { K key; int index; };

__device__ __forceinline__ bool before(const Pair &a, const Pair &b) {
    return a.key < b.key || (a.key == b.key && a.index < b.index);
}

// NaN, all alike, come after every number; -0 is +0.
__device__ __forceinline__ K key_of(T value) {
    const K sign = K(1) << (BITS - 1), magnitude = sign - 1, all = sign | magnitude;
    K bits = 0;
    memcpy(&bits, &value, sizeof value);
#if KIND == 1
    bits ^= sign;
#elif KIND == 2
    if ((bits & magnitude) > K(NAN_ABOVE)) bits = all;
    else if (bits & magnitude) bits = bits & sign ? ~bits & all : bits | sign;
    else bits = sign;
#endif
    return LARGEST ? ~bits & all : bits;
}

__device__ __forceinline__ Pair last_of_all() { return {K(~K(0)), 0x7fffffff}; }

#if FROM_PAIRS
typedef Pair Source;
#else
typedef T Source;
#endif

// Where the elements of a row lie: element j of row r at (r / inner * n + j) * inner + r % inner.
__device__ __forceinline__ long long place(long long row, long long j, long long n, long long inner) {
    if (inner == 1) return row * n + j;
    long long outer = quotient(row, inner);
    return (outer * n + j) * inner + row - outer * inner;
}

// A block sorts `together` pieces of `width` of the rows, which `parts` pieces each cover, and keeps the `keep`
// first of each. The result: pairs, row after row and piece after piece; or values and indices.
extern "C" __global__ void sort_pieces(const Source *__restrict__ source, const T *__restrict__ x,
                                       Pair *__restrict__ pairs, T *__restrict__ values,
                                       int64_t *__restrict__ indices, long long rows, long long n,
                                       long long given, long long inner, long long parts, long long width,
                                       long long keep, long long together) {
    extern __shared__ __align__(16) unsigned char memory[];
    Pair *held = (Pair *)memory;
    long long first = blockIdx.x * together;
    int size = int(width), all = int(width * together);
    for (int i = threadIdx.x; i < all; i += blockDim.x) {
        // Neighbouring threads take what lies side by side: elements of a row, or of neighbouring rows.
        int piece = inner == 1 ? i / size : i % int(together), j = inner == 1 ? i % size : i / int(together);
        long long row = quotient(first + piece, parts);
        long long at = (first + piece - row * parts) * width + j;
        Pair pair = last_of_all();
#if FROM_PAIRS
        if (row < rows && at < given) pair = source[row * given + at];
#else
        if (row < rows && at < given) pair = {key_of(source[place(row, at, n, inner)]), int(at)};
#endif
        held[piece * size + j] = pair;
    }
    __syncthreads();
    sort_shared(held, all, size);
    int kept = int(keep);
    for (int i = threadIdx.x; i < kept * together; i += blockDim.x) {
        int piece = inner == 1 ? i / kept : i % int(together), j = inner == 1 ? i % kept : i / int(together);
        long long row = quotient(first + piece, parts);
        if (row >= rows) continue;
        Pair pair = held[piece * size + j];
#if TO_PAIRS
        pairs[(first + piece) * keep + j] = pair;
#else
        long long goal = place(row, j, keep, inner);
        if (values) values[goal] = x[place(row, pair.index, n, inner)];
        if (indices) indices[goal] = pair.index;
#endif
    }
}

// Merges sorted runs of `run` pairs, two and two, of rows of n.
extern "C" __global__ void merge_runs(const Pair *__restrict__ source, Pair *__restrict__ goal,
                                      long long total, long long n, long long run) {
    long long i = first_index();
    if (i >= total) return;
    long long row = quotient(i, n);
    goal[row * n + merged_place(source + row * n, i - row * n, n, run)] = source[i];
}

// Takes the `keep` first of a row's `given` pairs to their values, elements of a row of n, and indices.
extern "C" __global__ void take_pairs(const Pair *__restrict__ pairs, const T *__restrict__ x,
                                      T *__restrict__ values, int64_t *__restrict__ indices, long long total,
                                      long long given, long long n, long long inner, long long keep) {
    long long i = first_index();
    if (i >= total) return;
    long long row = i / (inner * keep) * inner + i % inner, j = i / inner % keep;
    int index = pairs[row * given + j].index;
    if (values) values[i] = x[place(row, index, n, inner)];
    if (indices) indices[i] = index;
}
