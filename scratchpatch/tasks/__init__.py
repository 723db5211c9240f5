"""Tasks: what a trained model can do, measured so that others can repeat it."""
