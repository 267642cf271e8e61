"""Templates for the tests of native code."""

from onnxref.native.ops import arg, atomic_add


def count(step):
    """Kernel that adds `step` to the first argument for every unit."""

    def kernel(p, begin, end, thread):
        for _ in range(begin, end):
            atomic_add(p, step)

    return kernel


def mark():
    """Kernel that writes the number of a unit's thread, plus one, to the unit's place: (address)."""
    from onnxref.native.ops import access

    _, store = access("int64")

    def kernel(p, begin, end, thread):
        at = arg(p, 0)
        for unit in range(begin, end):
            store(at, unit, thread + 1)

    return kernel


def spin():
    """Kernel that counts to a large number for every unit: (how far)."""

    def kernel(p, begin, end, thread):
        for _ in range(begin, end):
            for _ in range(arg(p, 1)):
                atomic_add(p, 1)

    return kernel


def refused():
    """Template of what cannot be compiled."""

    def kernel(p, begin, end, thread):
        return p.nonsense

    return kernel
