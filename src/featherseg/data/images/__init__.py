"""Images and masks as files: bounded decoding, headers, bands, palettes, pairs of files."""
