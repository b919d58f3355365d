"""The embedded demonstration model: its weights and the programs that made them."""
