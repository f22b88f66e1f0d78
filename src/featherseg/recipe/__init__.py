"""Recipes: their keys (`tables`), how they are read (`reading`), the shipped ones (`shipped/`)."""
