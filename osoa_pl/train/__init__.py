"""Training with Lightning: the module, its callbacks, and the command line that drives them."""
