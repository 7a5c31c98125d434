"""How fast the methods are here: kernels alone, bare decoding, and the whole way of a clip."""
