"""Videos in, motion representations out: decode → windows → method → sink.

`extract` runs the whole of it and tells a `Listener` how it goes; `open` reads the shards that it
wrote. Names are loaded when asked for, so that `import mrx` costs nothing.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Listener", "extract", "open"]

if TYPE_CHECKING:
    from mrx.library import Listener, extract, open


def __getattr__(name: str) -> Any:
    """Load the public functions at their first use."""
    if name not in __all__:
        raise AttributeError(f"module mrx has no attribute {name}")
    from mrx import library

    return getattr(library, name)
