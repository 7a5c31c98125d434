"""Benchmarks of the methods on this machine: kernels, bare decoding, and the whole pipeline."""
