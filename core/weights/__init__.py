"""Weights: a stream of named tensors, bound to holders until both are empty."""
