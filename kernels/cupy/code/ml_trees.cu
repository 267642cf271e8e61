// Decision trees: rows go down to their leaves, then the leaves' votes are added up.
// A branch asks for low <= x <= high; a child is a branch, or a leaf i written as ~i.

#ifdef BY_TREE
// WIDE: whether in float64, and with lower bounds; T: type of X; BY_TREE: whether the threads have one row
// and different trees, else different rows and one tree.
#if WIDE
struct alignas(16) Node {
    double high, low;
    int feature, fails, passes, unused;
};
typedef double W;
#else
struct alignas(16) Node {
    float high;
    int feature, fails, passes;
};
typedef float W;
#endif

// Integers are compared as float32, whatever their size.
__device__ __forceinline__ W compared(float x) { return W(x); }
__device__ __forceinline__ W compared(double x) { return W(x); }
__device__ __forceinline__ W compared(half_t x) { return W(widen(x)); }
__device__ __forceinline__ W compared(int32_t x) { return W(float(x)); }
__device__ __forceinline__ W compared(int64_t x) { return W(float(x)); }

__device__ __forceinline__ int leaf_of(const T *row, const Node *nodes, int at) {
    while (at >= 0) {
        Node node = nodes[at];
        W value = compared(row[node.feature & 0x7fffffff]);
        bool passes = value <= node.high;
#if WIDE
        passes = passes && value >= node.low;
#endif
        // The sign of a feature says that NaN passes.
        passes = passes || (node.feature < 0 && value != value);
        at = passes ? node.passes : node.fails;
    }
    return ~at;
}

extern "C" __global__ void walk(const T *__restrict__ x, const Node *__restrict__ nodes,
                                const int *__restrict__ roots, int *__restrict__ leaves, long long rows,
                                long long features, long long trees, long long slice) {
#if BY_TREE
    int tree = int(first_index());
    if (tree < int(trees))
        leaves[blockIdx.y * trees + tree] = leaf_of(x + blockIdx.y * features, nodes, roots[tree]);
#else
    long long row = first_index();
    if (row >= rows) return;
    int begin = int(blockIdx.y * slice), end = min(begin + int(slice), int(trees));
    for (int tree = begin; tree < end; tree++)
        leaves[tree * rows + row] = leaf_of(x + row * features, nodes, roots[tree]);
#endif
}

#else
// VOTES: 0 a table (leaves, targets), 1 one target for each leaf, 2 a list; AGGREGATE: 0 sum, 1 least, 2 greatest;
// WEIGHT: type of the weights; WIDTH: targets of a thread; TEAM: threads that have a row, 1 or a warp.
// GROUP trees are added up before they join the others: the order is the same for any number of rows.

__device__ __forceinline__ double combined(double held, double value) {
    if (AGGREGATE == 0) return held + value;
    if (value != value) return held;
    return (AGGREGATE == 1 ? held <= value : held >= value) ? held : value;
}

struct Votes { double of[WIDTH]; };

__device__ __forceinline__ Votes no_votes() {
    Votes votes;
#pragma unroll
    for (int k = 0; k < WIDTH; k++) votes.of[k] = AGGREGATE == 0 ? 0.0 : double(NAN);
    return votes;
}

__device__ __forceinline__ void add_vote(Votes &votes, int target, double weight) {
#pragma unroll
    for (int k = 0; k < WIDTH; k++)
        if (k == target) votes.of[k] = combined(votes.of[k], weight);
}

extern "C" __global__ void vote(const int *__restrict__ leaves, double *__restrict__ scores, long long rows,
                                long long trees, long long row_step, long long tree_step, long long targets,
                                const int64_t *__restrict__ first, const int *__restrict__ target,
                                const WEIGHT *__restrict__ weight) {
    long long row = first_index() / TEAM;
    int lane = TEAM == 1 ? 0 : int(threadIdx.x % WARP), begin = blockIdx.y * WIDTH;
    int groups = row < rows ? (int(trees) + GROUP - 1) / GROUP : 0;
    int most = min(WIDTH, int(targets) - begin);
    Votes total = no_votes();
    for (int start = 0; start < groups; start += TEAM) {
        Votes part = no_votes();
        int tree = (start + lane) * GROUP, end = min(tree + GROUP, int(trees));
#pragma unroll 4
        for (; tree < end; tree++) {
            int leaf = leaves[row * row_step + tree * tree_step];
#if VOTES == 0
            const WEIGHT *found = weight + leaf * targets + begin;
#pragma unroll
            for (int k = 0; k < WIDTH; k++)
                if (k < most) part.of[k] = combined(part.of[k], double(found[k]));
#elif VOTES == 1
            add_vote(part, target[leaf] - begin, double(weight[leaf]));
#else
            for (int64_t i = first[leaf]; i < first[leaf + 1]; i++) add_vote(part, target[i] - begin, double(weight[i]));
#endif
        }
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            if (TEAM == 1) {
                total.of[k] = combined(total.of[k], part.of[k]);
            } else {
                for (int j = 0; j < min(TEAM, groups - start); j++)
                    total.of[k] = combined(total.of[k], __shfl_sync(FULL_WARP, part.of[k], j));
            }
        }
    }
    if (row >= rows || lane) return;
#pragma unroll
    for (int k = 0; k < WIDTH; k++)
        if (k < most) scores[row * targets + begin + k] = total.of[k];
}
#endif
