// Codes of 2, 4 or 8 bits as floats. They lie in words of 32 bits, the first code in the lowest bits.
//
// A code at bit p of the lower half of a word, under the bits of 2^23, is the float 2^23 + code * 2^p; less
// 2^23 + zero * 2^p it is (code - zero) * 2^p, exactly: one logical operation and one sum for a code.
//
// T: type of scales, and of zero points; BITS: of a code; ZEROS: 0 all zero points are 2^(BITS - 1), 1 they are
// codes too, 2 they are of type T.

#define PLACES (16 / BITS)
#define CODES (32 / BITS)

#if ZEROS == 2
typedef T ZERO;
#else
typedef uint8_t ZERO;
#endif

// What is to be subtracted for the codes of a block, at each place.
struct Offsets {
    float at[PLACES];

    // For a block of row n. `zero_bytes`: of a row of packed zero points.
    __device__ __forceinline__ void load(const ZERO *zeros, long long n, int block, long long blocks,
                                         long long zero_bytes) {
#if ZEROS == 1
        int bit = block * BITS;
        float zero = float((zeros[n * zero_bytes + bit / 8] >> (bit % 8)) & ((1 << BITS) - 1));
#elif ZEROS == 2
        float zero = widen(zeros[n * blocks + block]);
#else
        float zero = float(1 << (BITS - 1));
#endif
#pragma unroll
        for (int i = 0; i < PLACES; i++)
            at[i] = (ZEROS == 2 ? 0.0f : 8388608.0f) + zero * float(1 << (i * BITS));
    }

    // (code - zero) * 2^p for the code at place i of the lower half of `bits`.
    __device__ __forceinline__ float difference(uint32_t bits, int i) const {
        float value = bits_float((bits & (((1u << BITS) - 1u) << (i * BITS))) | 0x4b000000u);
        if (ZEROS == 2) value -= 8388608.0f;
        return value - at[i];
    }
};

__device__ __forceinline__ float place_factor(int i) { return bits_float(uint32_t(127 - i * BITS) << 23); }
