"""From a run (or an exported file) and an image to a mask: runtimes, modes, the Predictor, drawing."""
