"""Training samples: sampling, augmentation, batches."""
