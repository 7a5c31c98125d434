"""HDF5 shards of motion maps: written whole or not at all, and read back as floats."""
