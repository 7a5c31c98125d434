"""Names of methods and their modules. This file imports nothing."""

METHOD_MODULES = {
    "mbpm": "mrx.methods.mbpm",
    "dynamic-image": "mrx.methods.dynamic_image",
    "pa": "mrx.methods.pa",
    "tvl1": "mrx.methods.tvl1",
    "tvnet": "mrx.methods.tvnet",
    "ms": "mrx.methods.ms",
}

ENTRY_POINT_GROUP = "mrx.methods"
"""Entry point group in which other packages offer a `Method` by name."""
