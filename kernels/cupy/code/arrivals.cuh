// Blocks that share a result: each leaves its part in memory, and the one that arrives last joins all parts in their
// order, so that it does not matter which one that is.

// Whether this block is the last of `blocks`; all its threads ask, behind their stores. `arrived` is zero before the
// first and behind the last; `is_last` is shared.
__device__ __forceinline__ bool arrives_last(unsigned *arrived, unsigned blocks, bool *is_last) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();  // what the block has stored is seen before its arrival
        *is_last = atomicAdd(arrived, 1u) == blocks - 1;
        if (*is_last) *arrived = 0;
        __threadfence();  // and what the others have stored behind theirs
    }
    __syncthreads();
    return *is_last;
}
