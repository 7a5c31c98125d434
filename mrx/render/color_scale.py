"""One scale for a whole clip: a robust maximum of values that are seen once, and not kept."""

import numpy as np

from mrx.errors import UsageError
from mrx.render.arrays import UNKNOWN_LIMIT, Values, check_positive_number, is_known, to_floats

_DROPPED_BITS = 15  # of float32's 23 that are cut off: 256 bins an octave
_NUM_BINS = int(np.float32(UNKNOWN_LIMIT).view(np.int32) >> _DROPPED_BITS) + 1
_MOTION_SHARE = 0.75

HEADROOM = 1.2
"""Where colors darken beyond the bound: what moves as one would else be drawn in two colors."""


class Scale:
    """The value at which colors are full, for all pictures of a clip, so that none flickers.

    Maps are added one after the other in a first pass; they are counted into bins of their
    magnitude, a third of a MiB in all, whatever the clip's length, and any order gives the same.
    `bound` is the value that the `share` of magnitudes stays below, or, where less than that
    share moves, the one below which three quarters of all motion lie: a small object that moves
    over a still ground is not taken for noise. Times the headroom, it is at most 0.4 % above what
    sorting would give, never below it, and never above the largest value.

    Args:
        share: of the magnitudes, in 0..1
        least: the bound of a clip in which nothing moves; noise below it stays pale
        headroom: factor, 1 or more
    """

    def __init__(self, share: float = 0.99, *, least: float = 0.0, headroom: float = 1.0) -> None:
        if not 0 < share <= 1:
            raise UsageError(f"share={share}: must be above 0, and at most 1")
        if least:
            check_positive_number("least", least)
        if not 1 <= headroom < np.inf:
            raise UsageError(f"headroom={headroom}: must be at least 1, and finite")
        self.share, self.least, self.headroom = share, least, headroom
        self.largest = 0.0
        self._counts = np.zeros(_NUM_BINS, np.int64)
        self._bound: float | None = None

    def add(self, values: Values) -> None:
        """Count values of any shape; their sign, NaN, infinity and unknown values do not."""
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
        """The robust maximum so far; above 0, even where nothing was added."""
        if self._bound is None:
            self._bound = self._find_bound()
        return self._bound

    def _find_bound(self) -> float:
        num_used = int(np.flatnonzero(self._counts)[-1]) + 1 if self._counts.any() else 1
        counts = self._counts[:num_used]
        edges = (
            (np.arange(1, num_used + 1, dtype=np.int32) << _DROPPED_BITS)
            .view(np.float32)
            .astype(float)
        )
        cumulative_counts = np.cumsum(counts)
        cumulative_motion = np.cumsum(
            counts[1:] * edges[:-1]
        )  # what lies in the first bin is still
        high = edges[np.searchsorted(cumulative_counts, self.share * cumulative_counts[-1])]
        if cumulative_motion.size:
            high = max(
                high,
                edges[
                    1 + np.searchsorted(cumulative_motion, _MOTION_SHARE * cumulative_motion[-1])
                ],
            )
        return max(min(self.headroom * float(high), self.largest), self.least) or 1.0


def robust_maximum(values: Values, *, least: float = 0.0, headroom: float = 1.0) -> float:
    """The bound of one map alone: see `Scale`."""
    scale = Scale(least=least, headroom=headroom)
    scale.add(values)
    return scale.bound


def resolve_bound(scale: Scale | float | None) -> float | None:
    """The number behind what may be a scale, a number already, or nothing."""
    return scale.bound if isinstance(scale, Scale) else scale
