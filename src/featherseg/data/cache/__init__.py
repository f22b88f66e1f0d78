"""What is kept on disk to read a dataset faster, and the fingerprint that says what was read."""
