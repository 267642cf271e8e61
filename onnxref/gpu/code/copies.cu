// Copies of many tensors of any sizes in one launch.
// COUNT: how many tensors a launch can name; THREADS: of a block.
// A block copies CHUNK bytes of one tensor: those of tensor t are the blocks from first[t] to first[t + 1].

#define AT_ONCE 4  // accesses of a thread that are under way together
#define CHUNK (THREADS * 16 * AT_ONCE)

struct Words { long long of[COUNT]; };
struct alignas(16) Line { unsigned int word[4]; };

template <class T> __device__ __forceinline__ void copy_as(char *goal, const char *source, int bytes) {
    const T *from = (const T *)source;
    T *to = (T *)goal;
    int units = bytes / int(sizeof(T));
    for (int begin = threadIdx.x; begin < units; begin += THREADS * AT_ONCE) {
        T held[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (begin + k * THREADS < units) held[k] = from[begin + k * THREADS];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (begin + k * THREADS < units) to[begin + k * THREADS] = held[k];
    }
    int rest = bytes - units * int(sizeof(T));
    if (int(threadIdx.x) < rest) goal[bytes - rest + threadIdx.x] = source[bytes - rest + threadIdx.x];
}

// Addresses are the callers': they may lie at any byte, and source and goal may do so differently.
extern "C" __global__ void __launch_bounds__(THREADS)
copy_many(const __grid_constant__ Words source, const __grid_constant__ Words goal,
          const __grid_constant__ Words size, const __grid_constant__ Words first, long long count) {
    int low = 0, high = int(count);
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (first.of[middle] <= (long long)blockIdx.x) low = middle;
        else high = middle;
    }
    long long begin = ((long long)blockIdx.x - first.of[low]) * CHUNK;
    long long left = size.of[low] - begin;
    int bytes = left < CHUNK ? int(left) : CHUNK;
    const char *from = (const char *)source.of[low] + begin;
    char *to = (char *)goal.of[low] + begin;
    unsigned long long bits = (unsigned long long)from | (unsigned long long)to;
    if (bits % 16 == 0) copy_as<Line>(to, from, bytes);
    else if (bits % 4 == 0) copy_as<unsigned int>(to, from, bytes);
    else copy_as<char>(to, from, bytes);
}
