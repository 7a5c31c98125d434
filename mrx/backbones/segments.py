"""Clips for image networks: frames along the batch, and logits averaged over them."""

from torch import Tensor

from mrx.errors import ShapeError


def check_segments(segments: int, *, minimum: int = 1) -> None:
    """Raise ShapeError if a clip has too few frames."""
    if segments < minimum:
        raise ShapeError(f"segments={segments}: must be at least {minimum}")


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
        f"expected clips (B, {segments}, C, H, W) or frames (B * {segments}, C, H, W), all but B "
        f"at least 1, got {tuple(clip.shape)}"
    )


def unflatten_clips(frames: Tensor, segments: int) -> Tensor:
    """View consecutive frames as clips again, without a copy.

    Shape:
        - frames: ``(B * segments, ...)``; output: ``(B, segments, ...)``
    """
    check_segments(segments)
    if len(frames) % segments:
        raise ShapeError(f"expected frames (B * {segments}, ...), got {tuple(frames.shape)}")
    return frames.view(len(frames) // segments, segments, *frames.shape[1:])


def average_logits(logits: Tensor, segments: int) -> Tensor:
    """Average each clip's logits over its frames, before any softmax.

    Shape:
        - logits: ``(B * segments, classes)``; output: ``(B, classes)``
    """
    return unflatten_clips(logits, segments).mean(1)
