"""Data and a budget in, the best model for a device out."""
