"""Zeros around the planes of blocked tensors."""

from onnxref.native.ops import arg, fill_bytes


def zero_border():
    """Kernel over planes: (address, rows, bytes of a row, top rows, left bytes, bottom rows, right bytes)."""

    def kernel(p, begin, end, thread):
        x, rows, row = arg(p, 0), arg(p, 1), arg(p, 2)
        top, left, bottom, right = arg(p, 3), arg(p, 4), arg(p, 5), arg(p, 6)
        for plane in range(begin, end):
            at = x + plane * rows * row
            fill_bytes(at, 0, top * row + left)
            # The right border of a row and the left one of the next lie side by side.
            for y in range(top, rows - bottom - 1):
                fill_bytes(at + (y + 1) * row - right, 0, right + left)
            fill_bytes(at + (rows - bottom) * row - right, 0, right + bottom * row)

    return kernel
