"""Layers as checkpoints hold them: formats, and the holder that reads and multiplies them."""
