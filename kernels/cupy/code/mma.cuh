// Tensor cores for types of 16 bits: c += a b for fragments of a warp, a of 16 by 16, b of 16 by 8, c of 16 by 8 floats.
// Lane 4 g + t of a warp holds: of a the pairs along k at (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8);
// of b the pairs along k at (2t, g), (2t + 8, g); of c the pairs at (g, 2t), (g + 8, 2t).
// Source: PTX ISA, "Matrix Fragments for mma.m16n8k16".

template <class T> __device__ __forceinline__ uint32_t pair_of(float low, float high) {
    T a = narrow<T>(low), b = narrow<T>(high);
    return uint32_t(a.bits) | uint32_t(b.bits) << 16;
}

#if defined(ONNXREF_EMULATED)
template <class T> float half_of(uint32_t pair, int which) { return widen(T{uint16_t(pair >> 16 * which)}); }

template <class T> void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    int lane = emulator::lane(), g = lane / 4, t = lane % 4;
    for (int k = 0; k < 16; k++) {
        int source = k % 8 / 2, far = k / 8;
        float right[2], left[2];
        for (int j = 0; j < 2; j++) {
            uint32_t low = __shfl_sync(FULL_WARP, b0, (2 * t + j) * 4 + source);
            uint32_t high = __shfl_sync(FULL_WARP, b1, (2 * t + j) * 4 + source);
            right[j] = half_of<T>(far ? high : low, k % 2);
        }
        for (int i = 0; i < 2; i++) {
            uint32_t low = __shfl_sync(FULL_WARP, a[i], g * 4 + source);
            uint32_t high = __shfl_sync(FULL_WARP, a[2 + i], g * 4 + source);
            left[i] = half_of<T>(far ? high : low, k % 2);
        }
        for (int i = 0; i < 4; i++) c[i] += left[i / 2] * right[i % 2];
    }
}

template <class T> void load_transposed(uint32_t (&made)[4], const T *row) {
    int lane = emulator::lane(), g = lane / 4, t = lane % 4;
    for (int m = 0; m < 4; m++) {
        const T *low = (const T *)__shfl_sync(FULL_WARP, uint64_t(row), 8 * m + 2 * t);
        const T *high = (const T *)__shfl_sync(FULL_WARP, uint64_t(row), 8 * m + 2 * t + 1);
        made[m] = uint32_t(low[g].bits) | uint32_t(high[g].bits) << 16;
    }
}
#else
template <class T>
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ __forceinline__ void multiply_add<half_t>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void multiply_add<bfloat16_t>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four matrices of 8 by 8 in shared memory, transposed: lanes 8 m to 8 m + 7 give the rows of matrix m, 16 bytes each;
// a lane gets the elements (2t, g) and (2t + 1, g) of each.
template <class T> __device__ __forceinline__ void load_transposed(uint32_t (&made)[4], const T *row) {
    uint32_t address = uint32_t(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(made[0]), "=r"(made[1]), "=r"(made[2]), "=r"(made[3])
                 : "r"(address)
                 : "memory");
}
#endif
