"""Blocks that more than one paper uses, named for what they do, each citing its source."""
