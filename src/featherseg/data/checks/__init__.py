"""What is wrong with a dataset, and how `check --fix` mends it."""
