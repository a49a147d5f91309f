"""The published unlearning losses, written out a second time to compare the package with."""
