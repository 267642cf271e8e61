// Weights (N, K) of 2, 4 or 8 bits as numbers: (code - zero) * scale, rounded once to type T.
//
// T, BITS, ZEROS: see nbits.cuh; WHOLE: whether K is a multiple of the codes of a word.
#include "nbits.cuh"

// A thread has a word of B.
extern "C" __global__ void __launch_bounds__(256)
nbits_weights(const uint32_t *__restrict__ b, const T *__restrict__ scales, const ZERO *__restrict__ zeros,
              T *__restrict__ y, long long N, long long K, long long blocks, long long zero_bytes, long long words,
              long long block_shift) {
    long long at = first_index();
    if (at >= N * words) return;
    long long n = at / words;
    int word = int(at - n * words);
    long long k = (long long)word * CODES;
    if (k >= K) return;
    int block = word >> int(block_shift);
    uint32_t codes = b[at];
    Offsets offsets;
    offsets.load(zeros, n, block, blocks, zero_bytes);
    float scale = widen(scales[n * blocks + block]);
    T found[CODES];
#pragma unroll
    for (int i = 0; i < CODES; i++) {
        int place = i % PLACES;
        float difference = offsets.difference(codes >> (i / PLACES * 16), place);
        found[i] = narrow<T>(difference * place_factor(place) * scale);
    }
    T *goal = y + n * K + k;
#if WHOLE
    constexpr int VEC = CODES * sizeof(T) > 16 ? 16 / sizeof(T) : CODES;
#pragma unroll
    for (int i = 0; i < CODES; i += VEC) {
        Vec<T, VEC> piece;
#pragma unroll
        for (int v = 0; v < VEC; v++) piece.v[v] = found[i + v];
        *reinterpret_cast<Vec<T, VEC> *>(goal + i) = piece;
    }
#else
#pragma unroll
    for (int i = 0; i < CODES; i++)
        if (k + i < K) goal[i] = found[i];
#endif
}
