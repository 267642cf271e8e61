// MaxUnpool: elements go to the places that their indices name, the last one where several name the same.
// T: unsigned type of an element's size.

extern "C" __global__ void unpool_clear(int *__restrict__ owners, long long count) {
    long long at = first_index();
    if (at < count) owners[at] = 0;
}

// The owner of a place is the element with the highest number, from 1 on: 0 means none.
extern "C" __global__ void unpool_mark(const int64_t *__restrict__ index, int *__restrict__ owners, long long count,
                                       long long total, long long *fault) {
    long long at = first_index();
    if (at >= count) return;
    int64_t place = index[at];
    if (place < 0 || place >= total) {
        *fault = 1;
        return;
    }
    atomicMax(owners + place, int(at) + 1);
}

// `indexed`: the extents (images, three axes) that the indices count in, `out`: those of y.
extern "C" __global__ void unpool_take(const T *__restrict__ x, const int *__restrict__ owners, T *__restrict__ y,
                                       long long count, Ints<3> indexed, Ints<3> out) {
    long long at = first_index();
    if (at >= count) return;
    long long rest = at, place = 0, step = 1;
    bool inside = true;
#pragma unroll
    for (int axis = 2; axis >= 0; axis--) {
        long long o = rest % out.v[axis];
        rest /= out.v[axis];
        inside &= o < indexed.v[axis];
        place += o * step;
        step *= indexed.v[axis];
    }
    int owner = inside ? owners[rest * step + place] : 0;
    y[at] = owner ? x[owner - 1] : T(0);
}
