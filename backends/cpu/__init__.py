"""Kernels for a CPU: compiled once on a machine, run by torch's own threads."""
