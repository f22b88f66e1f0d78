"""`featherseg audit`: find wrong masks by predictions of models that never saw them."""
