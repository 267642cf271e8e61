// Sorting in shared memory, and merging of sorted runs. What comes first is `before` the other; an element
// type of its own brings its own.

template <class E> __device__ __forceinline__ bool before(const E &a, const E &b) { return a < b; }

// Sorts `total` elements in shared memory, each `width` (a power of two) for themselves, by a bitonic network.
template <class E> __device__ __forceinline__ void sort_shared(E *held, int total, int width) {
    for (int size = 2; size <= width; size *= 2)
        for (int step = size / 2; step; step /= 2) {
            for (int i = threadIdx.x; i < total / 2; i += blockDim.x) {
                int low = 2 * step * (i / step) + i % step, high = low + step;
                // The first comparisons of a size meet halves that are both ascending.
                if (step == size / 2) high = low + (2 * step - 1) - 2 * (i % step);
                E a = held[low], b = held[high];
                if (before(b, a)) held[low] = b, held[high] = a;
            }
            __syncthreads();
        }
}

// The place of element `at` once the sorted runs of `run` of a row of n are merged, two and two; all elements
// must differ. Found by bisection.
template <class E> __device__ __forceinline__ long long merged_place(const E *row, long long at, long long n,
                                                                     long long run) {
    long long begin = quotient(at, 2 * run) * (2 * run);
    bool is_left = at < begin + run;
    long long other = is_left ? min(begin + run, n) : begin;
    long long low = other, high = is_left ? min(begin + 2 * run, n) : begin + run;
    E own = row[at];
    while (low < high) {
        long long middle = (low + high) / 2;
        if (before(row[middle], own)) low = middle + 1;
        else high = middle;
    }
    return at - (is_left ? 0 : run) + (low - other);
}
