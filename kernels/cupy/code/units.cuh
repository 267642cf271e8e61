// Elements that are only moved: unsigned integers of their size, and flat indices split into those of axes.

template <int BYTES> struct UnitOf;
template <> struct UnitOf<1> { typedef uint8_t type; };
template <> struct UnitOf<2> { typedef uint16_t type; };
template <> struct UnitOf<4> { typedef uint32_t type; };
template <> struct UnitOf<8> { typedef uint64_t type; };
template <> struct UnitOf<16> { typedef Vec<uint64_t, 2> type; };

// How often a size goes into n, 0 <= n < 2^31 where INDEX is int: by a multiplication with the high half
// of 2^(32 + shift) / size, rounded up; `magic` holds the shift above the factor, and is 0 for size 1.
template <class I> __device__ __forceinline__ I quotient(I n, long long size, long long magic) {
    if (sizeof(I) > 4) return I(n / size);
    uint32_t high = uint32_t((uint64_t(uint32_t(n)) * uint32_t(magic)) >> 32);
    return magic == 0 ? n : I(high >> uint32_t(uint64_t(magic) >> 32));
}

// Offset of the flat index `n` of a box of N axes; `axes` holds sizes, magics, then strides, N of each:
// those are taken from the place `which`. Only the outermost index may run over.
template <int N, class I, class Axes>
__device__ __forceinline__ I offset_of(I n, const Axes &axes, int which) {
    I offset = 0;
#pragma unroll
    for (int d = N - 1; d > 0; d--) {
        I rest = quotient(n, axes.v[d], axes.v[N + d]);
        offset += (n - rest * I(axes.v[d])) * I(axes.v[which * N + d]);
        n = rest;
    }
    return offset + n * I(axes.v[which * N]);
}
