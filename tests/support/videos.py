"""Generate small videos."""

from pathlib import Path

import av
import cv2
import numpy as np


def make_texture(height, width, seed=0):
    """Make a smooth random RGB image."""
    rng = np.random.default_rng(seed)
    noise = rng.random((height, width, 3), np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    low, high = smooth.min(), smooth.max()
    return ((smooth - low) / (high - low) * 255).astype(np.uint8)


def make_frames(frames, height=64, width=80, *, speed=2, seed=0):
    """Make frames of a texture that moves left by `speed` pixels a frame."""
    wide = make_texture(height, width + frames * speed, seed)
    return [wide[:, i * speed : i * speed + width].copy() for i in range(frames)]


def write_video(
    path, images, *, fps=25, codec="libx264", options=None, pix_fmt="yuv420p", flags=""
):
    """Encode RGB images; `flags` are the container's ``movflags``."""
    height, width = images[0].shape[:2]
    with av.open(str(path), "w", options={"movflags": flags} if flags else {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for image in images:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Path(path)


def write_clip(path, frames=12, **options):
    """Write a video of a moving texture with this number of frames."""
    size = {k: options.pop(k) for k in ("height", "width", "seed", "speed") if k in options}
    return write_video(path, make_frames(frames, **size), **options)


def write_images(folder, numbers, *, name="{:05d}.jpg", height=48, width=64):
    """Write a folder of numbered images."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number, image in zip(numbers, make_frames(len(numbers), height, width), strict=True):
        cv2.imwrite(str(Path(folder) / name.format(number)), image[..., ::-1])
    return Path(folder)
