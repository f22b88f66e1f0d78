"""From a run or an exported file and an image to a mask: runtimes, the Predictor, drawing."""
