"""Training of models from scratch: the loop (``loop``) and the models that can be made with it (``runs``)."""
