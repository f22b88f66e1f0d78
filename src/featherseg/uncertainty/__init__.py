"""How sure a score is: clusters of images, the cluster bootstrap, paired differences."""
