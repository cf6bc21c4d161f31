"""The brain of a node: one queue, one writer, and the wiring of everything around the core."""
