"""`featherseg audit`: masks that are probably wrong, found by what a model that never saw them predicts."""
