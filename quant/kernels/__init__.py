"""Triton kernels of quantized products."""
