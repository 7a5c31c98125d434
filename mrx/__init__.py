"""Videos in, motion representations out: decode → windows → method → sink.

`extract` runs the whole of it and tells a `Listener` how it goes; `open` reads the shards that it
wrote. Names are loaded when asked for, so that `import mrx` costs nothing.
"""

from typing import TYPE_CHECKING, Any

from mrx.version import __version__ as __version__

__all__ = ["Listener", "extract", "open"]

if TYPE_CHECKING:
    from mrx.api import Listener, extract, open


def __getattr__(name: str) -> Any:
    """Load the public functions at their first use."""
    if name not in __all__:
        raise AttributeError(f"module mrx has no attribute {name}")
    from mrx import api

    return getattr(api, name)
