"""Native kernels, written for Numba. Imported only when one has to be compiled."""
