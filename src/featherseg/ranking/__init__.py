"""`featherseg rank`: which unlabelled images to annotate next."""
