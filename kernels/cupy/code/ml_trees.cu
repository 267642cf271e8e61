// Decision trees: rows go down to their leaves.
// A branch asks for low <= x <= high; a child is a branch, or a leaf i written as ~i.
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
