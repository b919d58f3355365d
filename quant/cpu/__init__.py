"""Products with quantized weights on a CPU, by torch's operators."""
