"""Find what is wrong with a dataset (`check.py`), and write a mended copy (`fixes.py`)."""
