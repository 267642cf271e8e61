"""Kernel sets: one folder for each backend, one file for each operator family."""
