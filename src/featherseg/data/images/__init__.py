"""Images and masks as files: decoding within bounds, headers, bands, palettes, pairs of an image and its mask."""
