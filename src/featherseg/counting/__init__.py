"""Parameters and multiply-accumulates; the tables of the papers counted again."""
