// Convolutions of each channel with its own window over rows and columns, channels last, dilation 1.
// T: element type; KH, KW: the window; SH, SW: strides; ROWS, COLUMNS: outputs of a thread, for VEC neighbouring
// channels. w: (KH, KW, C). Pitches: elements from pixel to pixel, of x, y and the residual. Sums go over the window in its order, whatever the tile.
#include "product.cuh"

typedef Wide<T>::type A;
typedef Vec<T, VEC> Pack;

#define HIGH ((ROWS - 1) * SH + KH)
#define WIDE ((COLUMNS - 1) * SW + KW)

extern "C" __global__ void __launch_bounds__(128, 4)
depthwise(const T *__restrict__ x, const T *__restrict__ w, T *__restrict__ y, const T *__restrict__ bias,
          const T *__restrict__ residual, long long pitch, long long goal_pitch, long long added_pitch,
          long long count, long long blocks, long long height, long long width,
          long long out_height, long long out_width, long long top, long long left, double alpha, double beta) {
    long long index = first_index();
    if (index >= count) return;
    int tiles_x = (int(out_width) + COLUMNS - 1) / COLUMNS, tiles_y = (int(out_height) + ROWS - 1) / ROWS;
    int rest = int(index) / int(blocks);
    int channel = (int(index) - rest * int(blocks)) * VEC;
    int column = rest % tiles_x * COLUMNS;
    rest /= tiles_x;
    int row = rest % tiles_y * ROWS;
    long long n = rest / tiles_y;
    long long channels = blocks * VEC;
    const T *image = x + n * height * width * pitch + channel;
    const T *taps = w + channel;
    int i0 = row * SH - int(top), j0 = column * SW - int(left);
    A sums[ROWS][COLUMNS][VEC] = {};
    // Not unrolled: the lines of the tile share their registers.
#pragma unroll 1
    for (int i = 0; i < HIGH; i++) {
        bool in_rows = unsigned(i0 + i) < unsigned(height);
        const T *line = image + ((i0 + i) * width + j0) * pitch;
        Pack held[WIDE];
#pragma unroll
        for (int j = 0; j < WIDE; j++) {
            held[j] = Pack{};
            if (in_rows && unsigned(j0 + j) < unsigned(width))
                held[j] = *reinterpret_cast<const Pack *>(line + j * pitch);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            // This line of the image is line `ky` of the window of output row r.
            int ky = i - r * SH;
            if (ky < 0 || ky >= KH) continue;
#pragma unroll
            for (int kx = 0; kx < KW; kx++) {
                Pack tap = *reinterpret_cast<const Pack *>(taps + (ky * KW + kx) * channels);
#pragma unroll
                for (int c = 0; c < COLUMNS; c++)
#pragma unroll
                    for (int e = 0; e < VEC; e++)
                        sums[r][c][e] += A(widen(held[c * SW + kx].v[e])) * A(widen(tap.v[e]));
            }
        }
    }
    Addends addends = {bias, residual, FACTOR(1), FACTOR(1), alpha, beta};
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            if (row + r >= out_height || column + c >= out_width) continue;
            long long pixel = (n * out_height + row + r) * out_width + column + c;
            long long at = pixel * added_pitch + channel;
            Pack made;
#pragma unroll
            for (int e = 0; e < VEC; e++) made.v[e] = addends.finish(sums[r][c][e], channel + e, at + e);
            *reinterpret_cast<Pack *>(y + pixel * goal_pitch + channel) = made;
        }
}
