"""The published unlearning losses, written out a second time: what the losses of the package are compared with."""
