// Rows that groups of threads share.
// GROUP: threads that have a row: a power of two up to a warp, or 0 for a whole block.

// a / b of numbers that are not negative: a division of 32 bits, much the faster, where they fit.
__device__ __forceinline__ long long quotient(long long a, long long b) {
    return (a | b) >> 32 ? a / b : (long long)(uint32_t(a) / uint32_t(b));
}
__device__ __forceinline__ long long remainder_of(long long a, long long b) { return a - quotient(a, b) * b; }

// The row of this thread; where the grid has more groups than rows, one past the last or more.
__device__ __forceinline__ long long group_row() {
    return GROUP ? first_index() / (GROUP ? GROUP : 1) : (long long)blockIdx.x;
}
__device__ __forceinline__ int group_thread() { return GROUP ? threadIdx.x % (GROUP ? GROUP : 1) : threadIdx.x; }
__device__ __forceinline__ int group_threads() { return GROUP ? GROUP : blockDim.x; }

// Every thread of a group gets the combination of all. `held` is shared, one place per warp.
template <class V, class Combine> __device__ __forceinline__ V group_all(V value, Combine combine, V *held) {
    if (!GROUP) return block_all(value, combine, held);
#pragma unroll
    for (int offset = GROUP / 2; offset; offset >>= 1)
        value = combine(value, __shfl_xor_sync(FULL_WARP, value, offset));
    return value;
}
