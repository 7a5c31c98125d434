"""Clips as networks for images take them: frame after frame, and averaged in the end."""

from torch import Tensor

from mrx.errors import ShapeError


def check_segments(segments: int, *, minimum: int = 1) -> None:
    """Refuse clips of too few frames."""
    if segments < minimum:
        raise ShapeError(f"segments={segments}: a clip has at least {minimum} frames here")


def flatten_clips(clip: Tensor, segments: int) -> Tensor:
    """Put the frames of each clip one after another along the batch.

    Shape:
        - clip: ``(B, segments, C, H, W)``, or already ``(B * segments, C, H, W)``
        - output: ``(B * segments, C, H, W)``
    """
    check_segments(segments)
    if 0 not in clip.shape[-3:]:
        if clip.ndim == 5 and clip.shape[1] == segments:
            return clip.flatten(0, 1)
        if clip.ndim == 4 and len(clip) % segments == 0:
            return clip
    raise ShapeError(
        f"it takes clips (B, {segments}, C, H, W) or frames (B * {segments}, C, H, W), all but B "
        f"at least 1, got {tuple(clip.shape)}"
    )


def unflatten_clips(frames: Tensor, segments: int) -> Tensor:
    """Take frames that follow each other as clips again, without a copy.

    Shape:
        - frames: ``(B * segments, ...)``; output: ``(B, segments, ...)``
    """
    check_segments(segments)
    if len(frames) % segments:
        raise ShapeError(f"it takes frames (B * {segments}, ...), got {tuple(frames.shape)}")
    return frames.view(len(frames) // segments, segments, *frames.shape[1:])


def average_logits(logits: Tensor, segments: int) -> Tensor:
    """Average each clip's logits over its frames, before any softmax.

    Shape:
        - logits: ``(B * segments, classes)``; output: ``(B, classes)``
    """
    return unflatten_clips(logits, segments).mean(1)
