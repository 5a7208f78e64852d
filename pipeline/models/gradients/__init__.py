"""Per-example gradients: the engine, what it reads of a layer, and what is made of it."""
