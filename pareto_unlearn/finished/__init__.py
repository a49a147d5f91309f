"""What can be done with a finished run: turn the dial, measure again, export, look at weights, open it in a notebook."""
