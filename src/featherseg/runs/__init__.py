"""Run folders: what a training leaves, and how one is found and opened."""
