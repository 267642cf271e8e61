"""What lowerings for the CPU and for GPUs have in common: rules that say nothing of a machine."""
