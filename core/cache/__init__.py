"""Block pool, prefix index, and the manager that owns both."""
