"""What the stored numbers of a run say: dominance and hypervolume, likeness to a retrained model, robustness.

Pure functions of records; no torch, no store.
"""
