"""From a folder without a description to a `dataset.toml`: layout, names, values, splits."""
