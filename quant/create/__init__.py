"""Making quantized checkpoints, one decoder layer at a time."""
