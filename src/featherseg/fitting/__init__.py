"""Data and a budget in, the best model for a device out: which candidates train for how long, and who goes on."""
