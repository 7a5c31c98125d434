"""The user's choices for the look of pictures: plain values without heavy imports."""

from dataclasses import dataclass
from typing import Literal

PictureStyle = Literal["side-by-side", "wheel", "hsv", "quiver", "magnitude", "signed", "overlay"]
LabelContent = Literal["none", "names", "parameters"]


@dataclass(frozen=True)
class PictureOptions:
    """The look of the pictures.

    Attributes:
        style: a style of `mrx.render`, or ``side-by-side``: the default style of each method
        max_flow: the displacement of full color in pixels; None measures it in a first pass
        per_frame_scale: give each picture its own scale
        legend: add the meaning of the colors
        label: ``none``, ``names`` of the methods, or ``parameters``: names and the parameters that
            are not the default
        scale: size relative to the frames
        alone: leave out the frame beside the panels
        every: show every Nth window
        fps: pictures per second; None keeps the video's speed
        columns: draw a grid of this many moments instead of a film
    """

    style: PictureStyle = "side-by-side"
    max_flow: float | None = None
    per_frame_scale: bool = False
    legend: bool = False
    label: LabelContent = "names"
    scale: float = 1.0
    alone: bool = False
    every: int = 1
    fps: float | None = None
    columns: int | None = None
