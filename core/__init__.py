"""The promises, and the engine that keeps them."""
