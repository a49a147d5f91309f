"""Files that ship with the package: weights, which ``pareto-unlearn train`` makes again, and of evidence."""
