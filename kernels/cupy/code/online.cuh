// Sum of exponentials relative to a maximum that is found on the way: one pass over memory.

__device__ __forceinline__ float exponential(float value) { return expf(value); }
__device__ __forceinline__ double exponential(double value) { return exp(value); }
__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double larger(double a, double b) { return fmax(a, b); }

// The sum is that of exp(x - largest); a NaN shows in it, and `largest` passes over NaN. Nothing yet: -inf, 0.
template <class W> struct Exponentials { W largest, sum; };

template <class W> __device__ __forceinline__ Exponentials<W> joined(Exponentials<W> a, Exponentials<W> b) {
    bool swap = b.largest > a.largest;
    W high = swap ? b.largest : a.largest, low = swap ? a.largest : b.largest;
    // Equal ones may be infinite.
    W factor = high == low ? W(1) : exponential(low - high);
    return {high, (swap ? b.sum : a.sum) + (swap ? a.sum : b.sum) * factor};
}

template <class W> __device__ __forceinline__ Exponentials<W> shuffled(Exponentials<W> p, int offset) {
    return {__shfl_xor_sync(FULL_WARP, p.largest, offset), __shfl_xor_sync(FULL_WARP, p.sum, offset)};
}
