"""From a run (or an exported file) and a picture to a mask: runtimes, modes, the Predictor, drawing."""
