"""What can be done with a finished run: dial, measure again, export, list weights, load in Python."""
