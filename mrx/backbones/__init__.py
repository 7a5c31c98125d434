"""Networks that know nothing of motion: the backbones of methods and classifiers."""
