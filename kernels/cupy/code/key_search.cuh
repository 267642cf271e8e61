// Look-ups of numbers among ascending keys, NaN last. KEY: type of the keys; at least one key.

__device__ __forceinline__ int place_of(const KEY *keys, int count, KEY x) {
    int base = 0;
    if (x != x) {
        KEY last = keys[count - 1];
        return last != last ? count - 1 : -1;
    }
    for (int left = count; left > 1; left -= left / 2) {
        int half = left / 2;
        if (keys[base + half] <= x) base += half;
    }
    return keys[base] == x ? base : -1;
}
