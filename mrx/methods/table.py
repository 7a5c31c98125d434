"""Which name is which module. Importing this file imports nothing else."""

METHOD_MODULES = {
    "mbpm": "mrx.methods.mbpm",
    "dynamic-image": "mrx.methods.dynamic_image",
    "pa": "mrx.methods.pa",
    "tvl1": "mrx.methods.tvl1",
    "tvnet": "mrx.methods.tvnet",
    "ms": "mrx.methods.ms",
}

ENTRY_POINT_GROUP = "mrx.methods"
"""The group under which other packages offer a `Method` by name."""
