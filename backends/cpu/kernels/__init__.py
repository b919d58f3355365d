"""What numba compiles. Imported only when something is to be compiled."""
