"""Recipes: what one can contain (`tables`), how one is read (`reading`), and the shipped ones (`shipped/`)."""
