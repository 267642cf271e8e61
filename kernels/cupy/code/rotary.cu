// Rotary position embedding: pairs within the first part of each head are turned by an angle of their token.
// A thread has VEC pairs (INTERLEAVED: 2 * VEC neighbours; else VEC elements of each half), or VEC elements
// behind the part that is turned, which are copied. INDEX: unsigned type of indices.

typedef Wide<T>::type W;

// sizes: heads, tokens, elements of a head, pairs, rows of the caches; steps between batches, heads, tokens.
extern "C" __global__ void __launch_bounds__(256)
rotate(const T *__restrict__ x, const T *__restrict__ cosines, const T *__restrict__ sines,
       const long long *__restrict__ positions, T *__restrict__ y, long long *fault, Ints<5> sizes, Ints<3> steps,
       long long count) {
    INDEX heads = INDEX(sizes.v[0]), tokens = INDEX(sizes.v[1]), size = INDEX(sizes.v[2]), pairs = INDEX(sizes.v[3]);
    INDEX turning = pairs / VEC, units = turning + (size - 2 * pairs) / VEC;
    long long index = first_index();
    if (index >= count) return;
    // Heads of a token are neighbours, so that its angles are read from the nearest cache.
    INDEX at = INDEX(index), line = at / units, unit = at - line * units;
    INDEX place = line / heads, head = line - place * heads;
    INDEX batch = place / tokens, token = place - batch * tokens;
    long long row = batch * steps.v[0] + head * steps.v[1] + token * steps.v[2];
    if (unit >= turning) {
        long long element = row + 2 * pairs + (unit - turning) * VEC;
        *(Vec<T, VEC> *)(y + element) = *(const Vec<T, VEC> *)(x + element);
        return;
    }
    long long angle = place;
    if (positions) {
        angle = positions[place];
        if (angle < 0 || angle >= sizes.v[4]) {
            *fault = 1;
            angle = 0;
        }
    }
    Vec<T, VEC> cosine = *(const Vec<T, VEC> *)(cosines + angle * pairs + unit * VEC);
    Vec<T, VEC> sine = *(const Vec<T, VEC> *)(sines + angle * pairs + unit * VEC);
    long long near = row + unit * VEC * (INTERLEAVED ? 2 : 1);
    long long far = INTERLEAVED ? near + VEC : near + pairs;
    Vec<T, VEC> one = *(const Vec<T, VEC> *)(x + near), other = *(const Vec<T, VEC> *)(x + far);
#pragma unroll
    for (int e = 0; e < VEC; e++) {
        // Place of a pair's first and second element in both accesses together.
        int a = INTERLEAVED ? 2 * e : e, b = INTERLEAVED ? 2 * e + 1 : VEC + e;
        W real = widen(a < VEC ? one.v[a % VEC] : other.v[a % VEC]);
        W imaginary = widen(b < VEC ? one.v[b % VEC] : other.v[b % VEC]);
        W c = widen(cosine.v[e]), s = widen(sine.v[e]);
        T first = narrow<T>(c * real - s * imaginary), second = narrow<T>(s * real + c * imaginary);
        if (a < VEC) one.v[a % VEC] = first; else other.v[a % VEC] = first;
        if (b < VEC) one.v[b % VEC] = second; else other.v[b % VEC] = second;
    }
    *(Vec<T, VEC> *)(y + near) = one;
    *(Vec<T, VEC> *)(y + far) = other;
}
