"""Start frames of windows as the papers' loaders sample them in training, validation and test.

One function for each of TSN's rules as BQN, PAN and MotionSqueeze use them. Starts are counted
from 0 (the official code counts from 1). `draw(high, size)` returns random integers in 0..high-1,
such as ``numpy.random.default_rng(0).integers``.
"""

from collections.abc import Callable
from typing import Any

from mrx.errors import UsageError
from mrx.windows.plan import WindowRule, plan_starts

DrawFunction = Callable[..., Any]
DENSE_WINDOW = 64
DENSE_CLIPS = 10


def check_window_fits(frames: int, length: int) -> None:
    """Refuse a video that is shorter than one window."""
    if frames < length:
        raise UsageError(f"a window of {length} frames does not fit in a video of {frames}")


def random_starts(frames: int, segments: int, length: int, draw: DrawFunction) -> list[int]:
    """Draw one start in each of N equal parts.

    If the parts would be empty, N starts are drawn from all and sorted; a video of at most N frames
    gets N zeros.
    """
    check_window_fits(frames, length)
    part = (frames - length + 1) // segments
    if part > 0:
        # frames = 12, segments = 3, length = 3 -> parts of 3 starts: 0..2, 3..5, 6..8
        return [s * part + int(d) for s, d in enumerate(draw(part, size=segments))]
    if frames > segments:
        return sorted(int(d) for d in draw(frames - length + 1, size=segments))
    return [0] * segments


def validation_starts(frames: int, segments: int, length: int) -> list[int]:
    """Return the center of each of N equal parts; zeros if the video is too short for N parts."""
    check_window_fits(frames, length)
    if frames > segments + length - 1:
        return center_starts(frames, segments, length)
    return [0] * segments


def center_starts(frames: int, segments: int, length: int, *, twice: bool = False) -> list[int]:
    """Return the center of each of N equal parts; `twice` adds each part's beginning."""
    check_window_fits(frames, length)
    num_places = frames - length + 1
    centers = [*plan_starts(frames, WindowRule(length=length, step=1, segments=segments))]
    return centers + [s * num_places // segments for s in range(segments)] if twice else centers


def dense_starts(frames: int, segments: int, length: int, draw: DrawFunction) -> list[int]:
    """Return starts at a fixed stride in one randomly placed window of 64 frames (training)."""
    num_places, stride = _plan_dense_window(frames, segments, length)
    start = 0 if num_places == 1 else int(draw(num_places - 1))
    return [(start + i * stride) % frames for i in range(segments)]


def ten_dense_starts(frames: int, segments: int, length: int) -> list[int]:
    """Return the `dense_starts` of ten windows spread evenly over the video, joined (test)."""
    num_places, stride = _plan_dense_window(frames, segments, length)
    clips = [(num_places - 1) * k // (DENSE_CLIPS - 1) for k in range(DENSE_CLIPS)]
    return [(start + i * stride) % frames for start in clips for i in range(segments)]


def _plan_dense_window(frames: int, segments: int, length: int) -> tuple[int, int]:
    """Return the number of places of the dense window, and the stride inside it."""
    check_window_fits(frames, length)
    window, stride = (DENSE_WINDOW, DENSE_WINDOW // segments)
    if length > 1:
        window, stride = length * segments, length
    return max(1, 1 + frames - window), stride


def list_read_frames(starts: list[int], length: int, *, frames: int) -> list[int]:
    """List the frames to read for these starts; the last frame is repeated past the end."""
    return [min(start + i, frames - 1) for start in starts for i in range(length)]
