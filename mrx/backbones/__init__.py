"""Backbones of methods and classifiers: networks without motion modules."""
