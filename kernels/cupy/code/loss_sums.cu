// Sums of losses and of their factors, always in the same order. L: their type; T: of the result.
// FINAL: whether there is one block, which makes the result; IS_MEAN: whether that is the quotient.
extern "C" __global__ void loss_sums(const L *__restrict__ loss, const L *__restrict__ factor,
                                     double *__restrict__ parts, T *__restrict__ y, long long count) {
    __shared__ double held[32];
    double sum = 0.0, shares = 0.0;
#pragma unroll 4
    for (long long i = first_index(); i < count; i += index_step()) {
        sum += double(loss[i]);
        if (IS_MEAN) shares += double(factor[i]);
    }
    sum = block_all(sum, Sum(), held);
    if (IS_MEAN) shares = block_all(shares, Sum(), held);
    if (threadIdx.x) return;
    if (FINAL) {
        *y = narrow<T>(Wide<T>::type(IS_MEAN ? sum / shares : sum));
    } else {
        parts[blockIdx.x] = sum;
        parts[gridDim.x + blockIdx.x] = shares;
    }
}
