"""Videos to frames: `open_video` opens a file, a folder of images or a URL."""

from mrx.decode.video import Video, open_video

__all__ = ["Video", "open_video"]
