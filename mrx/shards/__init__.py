"""Motion to files: HDF5 shards, written whole or not at all, and read back as floats."""
