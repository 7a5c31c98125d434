"""Extracts motion representations from videos: decode → windows → method → shards.

`extract` runs the pipeline and reports progress to a `Listener`; `open` reads the shards. The names
are loaded at their first use, so that `import mrx` stays fast.
"""

from typing import TYPE_CHECKING, Any

from mrx.version import __version__ as __version__

__all__ = ["Listener", "extract", "open"]

if TYPE_CHECKING:
    from mrx.api import Listener, extract, open


def __getattr__(name: str) -> Any:
    """Load a public name at its first use."""
    if name not in __all__:
        raise AttributeError(f"module mrx has no attribute {name}")
    from mrx import api

    return getattr(api, name)
