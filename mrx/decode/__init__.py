"""Videos to frames: `open_video` reads a file, a folder of images or a URL as a stream."""

from mrx.decode.video import Video, open_video

__all__ = ["Video", "open_video"]
