"""Find the color scale of a whole clip in one pass, without keeping its maps."""

import numpy as np

from mrx.errors import UsageError
from mrx.render.arrays import UNKNOWN_LIMIT, Values, check_positive_number, is_known, to_floats

# The bits of a positive float32, read as an int32, grow with its value. Dropping the low 15 of
# 23 fraction bits makes them the index of a logarithmic histogram with 256 bins per octave.
_DROPPED_BITS = 15
_NUM_BINS = int(np.float32(UNKNOWN_LIMIT).view(np.int32) >> _DROPPED_BITS) + 1
_MOTION_SHARE = 0.75

HEADROOM = 1.2
"""Factor on the bound of styles that darken beyond it.

Without it, an object that moves as one would be drawn in two colors.
"""


class Scale:
    """The magnitude of full color for all pictures of a clip, so that colors do not flicker.

    Add every map of the clip in a first pass, in any order. The scale keeps a histogram of
    magnitudes (a third of a MiB for any length of clip), not the maps.

    `bound` is the larger of two values: the magnitude that a `share` of all magnitudes stays
    below, and the magnitude below which three quarters of all motion lies. The second keeps a
    small object that moves over a still background from being taken for noise. `bound` is this
    value times `headroom`, and at most the largest magnitude. The histogram makes it at most
    0.4 % larger than sorting would, never smaller.

    Args:
        share: share of the magnitudes to stay below, in 0..1
        least: minimum of the bound; noise of a still clip below it stays pale
        headroom: factor on the bound, 1 or more
    """

    def __init__(self, share: float = 0.99, *, least: float = 0.0, headroom: float = 1.0) -> None:
        if not 0 < share <= 1:
            raise UsageError(f"share={share}: must be above 0 and at most 1")
        if least:
            check_positive_number("least", least)
        if not 1 <= headroom < np.inf:
            raise UsageError(f"headroom={headroom}: must be at least 1 and finite")
        self.share, self.least, self.headroom = share, least, headroom
        self.largest = 0.0
        self._counts = np.zeros(_NUM_BINS, np.int64)
        self._bound: float | None = None

    def add(self, values: Values) -> None:
        """Count the magnitudes of values of any shape, except unknown ones."""
        magnitudes = np.abs(to_floats(values)).astype(np.float32, copy=False).ravel()
        known_mask = is_known(magnitudes)
        if not known_mask.all():
            magnitudes = magnitudes[known_mask]
        if not magnitudes.size:
            return
        self._bound = None
        self.largest = max(self.largest, float(magnitudes.max()))
        self._counts += np.bincount(magnitudes.view(np.int32) >> _DROPPED_BITS, minlength=_NUM_BINS)

    @property
    def bound(self) -> float:
        """The robust maximum so far; positive even if nothing was added."""
        if self._bound is None:
            self._bound = self._find_bound()
        return self._bound

    def _find_bound(self) -> float:
        num_used = int(np.flatnonzero(self._counts)[-1]) + 1 if self._counts.any() else 1
        counts = self._counts[:num_used]
        # Upper edges, so that the bound is never below the exact percentile.
        edges = (
            (np.arange(1, num_used + 1, dtype=np.int32) << _DROPPED_BITS)
            .view(np.float32)
            .astype(float)
        )
        cumulative_counts = np.cumsum(counts)
        # Bin 0 holds zeros and the smallest denormals: they do not move. The motion of each other
        # bin is its count times its lower edge, which is the upper edge of the bin before.
        cumulative_motion = np.cumsum(counts[1:] * edges[:-1])
        high = edges[np.searchsorted(cumulative_counts, self.share * cumulative_counts[-1])]
        if cumulative_motion.size:
            motion_target = _MOTION_SHARE * cumulative_motion[-1]
            high = max(high, edges[1 + np.searchsorted(cumulative_motion, motion_target)])
        return max(min(self.headroom * float(high), self.largest), self.least) or 1.0


def robust_maximum(values: Values, *, least: float = 0.0, headroom: float = 1.0) -> float:
    """Return the bound of one map on its own, see `Scale`."""
    scale = Scale(least=least, headroom=headroom)
    scale.add(values)
    return scale.bound


def resolve_bound(scale: Scale | float | None) -> float | None:
    """Return the bound of a scale; a number or None is returned as it is."""
    return scale.bound if isinstance(scale, Scale) else scale
