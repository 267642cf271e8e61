// Windows of an image as rows of a matrix: row (image, position), column (tap, channel), padded to whole accesses.
// T: unsigned type of an element's size; VEC: elements that one access writes; LOAD: that one access reads, all of
// one tap. A warp has a row at a time.

// Where LOAD elements of a row come from: distance from the window's first element, by axis and in elements.
typedef Vec<int32_t, 4> Source;

typedef Vec<T, VEC> Pack;
typedef Vec<T, LOAD> Part;

extern "C" __global__ void __launch_bounds__(256)
im2col(const T *__restrict__ x, T *__restrict__ rows, const int32_t *__restrict__ table, const T *fill,
       long long first, long long count, long long vectors, long long image, Ints<3> size, Ints<3> out,
       Ints<3> strides, Ints<3> begins, Ints<3> x_strides) {
    long long row = blockIdx.x * 8ll + threadIdx.y;
    if (row >= count) return;
    long long at = first + row;
    int corner[3];
    long long base = 0;
#pragma unroll
    for (int axis = 2; axis >= 0; axis--) {
        long long rest = at / out.v[axis];
        corner[axis] = int(at - rest * out.v[axis]) * int(strides.v[axis]) - int(begins.v[axis]);
        base += corner[axis] * x_strides.v[axis];
        at = rest;
    }
    const T *from = x + at * image + base;
    int height = int(size.v[0]), width = int(size.v[1]), depth = int(size.v[2]);
    T padding = fill ? *fill : T(0);
    Pack *goal = reinterpret_cast<Pack *>(rows) + row * vectors;
    const Source *sources = reinterpret_cast<const Source *>(table);
#pragma unroll 2
    for (int v = threadIdx.x; v < int(vectors); v += WARP) {
        Pack made;
#pragma unroll
        for (int e = 0; e < VEC; e += LOAD) {
            Source source = sources[v * (VEC / LOAD) + e / LOAD];
            bool inside = unsigned(corner[0] + source.v[0]) < unsigned(height) &&
                          unsigned(corner[1] + source.v[1]) < unsigned(width) &&
                          unsigned(corner[2] + source.v[2]) < unsigned(depth);
            Part part;
            if (inside) part = *reinterpret_cast<const Part *>(from + source.v[3]);
#pragma unroll
            for (int i = 0; i < LOAD; i++) made.v[e + i] = inside ? part.v[i] : padding;
        }
        goal[v] = made;
    }
}
