// Matrices of few rows or few columns turned over, many at once, as in layout.cu: a block takes PIXELS of the long
// side and all FEW of the short one. TO_LAST: the short side comes last in y, else in x.
// T: unsigned type of an element's size.

#define PIXELS 512

extern "C" __global__ void __launch_bounds__(256)
turned_few(const T *__restrict__ x, T *__restrict__ y, long long pixels, long long pieces) {
    __shared__ T held[FEW * PIXELS];
    long long first = blockIdx.x % pieces * PIXELS, matrix = blockIdx.x / pieces * pixels * FEW;
    int count = int(min(pixels - first, (long long)PIXELS));
    const T *from = x + matrix;
    T *to = y + matrix;
    if (TO_LAST) {
        #pragma unroll
        for (int c = 0; c < FEW; c++)
            for (int i = threadIdx.x; i < count; i += 256) held[i * FEW + c] = from[c * pixels + first + i];
        __syncthreads();
        for (int i = threadIdx.x; i < count * FEW; i += 256) to[first * FEW + i] = held[i];
    } else {
        for (int i = threadIdx.x; i < count * FEW; i += 256) held[i] = from[first * FEW + i];
        __syncthreads();
        #pragma unroll
        for (int c = 0; c < FEW; c++)
            for (int i = threadIdx.x; i < count; i += 256) to[c * pixels + first + i] = held[i * FEW + c];
    }
}
