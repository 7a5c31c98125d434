"""Classifiers built from the methods' modules and well-known backbones."""
