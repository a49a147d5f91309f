"""Weights that ship with the package; ``pareto-unlearn train`` makes the same files again."""
