"""Analysis of a run's stored numbers: dominance and hypervolume, likeness to a retrained model, robustness.

Pure functions of records; no torch, no store.
"""
