"""How the maps of a method are drawn, whatever the method: by the channels' names and the units."""

import typing
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mrx.errors import ShapeError, UsageError
from mrx.render.arrays import (
    Picture,
    Values,
    draw_each,
    enlarge_cells,
    frame_to_rgb,
    is_known,
    to_floats,
)
from mrx.render.color_scale import HEADROOM, Scale, resolve_bound
from mrx.render.heat import confidence_to_rgb, heat_to_rgb, magnitude
from mrx.render.legends import arrow_legend, bar_legend, wheel_legend
from mrx.render.overlay import overlay, quiver
from mrx.render.signed import signed_to_rgb
from mrx.render.wheel import STILL_PIXELS, flow_to_hsv, flow_to_rgb, hue_to_rgb

Style = Literal["auto", "wheel", "hsv", "quiver", "magnitude", "signed", "overlay"]
MapKind = Literal["displacement", "color", "confidence", "change"]

STYLES: dict[MapKind, tuple[Style, ...]] = {
    "displacement": ("wheel", "hsv", "quiver", "magnitude", "signed", "overlay"),
    "color": ("wheel", "magnitude", "signed", "overlay"),
    "change": ("magnitude", "signed", "overlay"),
    "confidence": ("magnitude",),
}
"""What each kind of maps can be drawn as; the first is what ``auto`` means."""

_COLOR_CHANNELS = ("red", "green", "blue")
_OVERLAY_SHARE = 0.75  # share of the strongest colors in an overlay


def kind_of(channels: Sequence[str], units: str) -> MapKind:
    """What the first map, or the first maps together, are.

    ``displacement``: two channels in pixels; ``color``: signed red, green and blue;
    ``confidence``: a channel of that name, 0..1; ``change``: everything else, one by one.

    >>> kind_of(("dx", "dy"), "px"), kind_of(("red", "green", "blue"), "a.u.")
    ('displacement', 'color')
    >>> kind_of(("pa0", "pa1"), "a.u."), kind_of(("confidence",), "px")
    ('change', 'confidence')
    """
    if tuple(channels[:3]) == _COLOR_CHANNELS:
        return "color"
    if channels[:1] and channels[0].startswith("confidence"):
        return "confidence"
    if units == "px" and len(channels) > 1 and not channels[1].startswith("confidence"):
        return "displacement"
    return "change"


def parts(channels: Sequence[str], *, units: str, style: Style = "auto") -> list[slice]:
    """The channels of each picture that a method's maps make, in order.

    A stack of displacements makes a picture for each pair, and for each component when drawn
    ``signed``; colors make one; all others one for each channel.

    >>> parts(("x1", "y1", "x2", "y2"), units="px")
    [slice(0, 2, None), slice(2, 4, None)]
    >>> parts(("dx", "dy", "confidence"), units="px")
    [slice(0, 2, None), slice(2, 3, None)]
    """
    slices, start = [], 0
    while start < len(channels):
        kind = kind_of(channels[start:], units)
        width = {"displacement": 1 if style == "signed" else 2, "color": 3}.get(kind, 1)
        slices.append(slice(start, start + width))
        start += width
    return slices


def measure(
    maps: Values, channels: Sequence[str], *, units: str, style: Style = "auto"
) -> NDArray[np.float32]:
    """The magnitudes that a scale is made of: add them of all maps of a clip to a `Scale`.

    Norms of displacements and colors, absolute values of all else; of colors drawn ``signed``
    each channel's. Confidence has a scale of its own, 0..1, and does not count.

    Shape:
        - maps: ``(..., C, H, W)``
        - output: ``(..., P, H, W)``, P as many as there are `parts` to measure
    """
    array = to_floats(maps)
    _check_channels(array, channels)
    magnitudes = []
    for part in parts(channels, units=units):
        kind = kind_of(channels[part.start :], units)
        part_maps = array[..., part, :, :]
        if kind == "color" and style == "signed":
            magnitudes.append(np.abs(part_maps))
        elif kind != "confidence":
            magnitudes.append(magnitude(part_maps)[..., None, :, :])
    leading, size = array.shape[:-3], array.shape[-2:]
    no_maps = np.empty((*leading, 0, *size), np.float32)
    return np.concatenate([no_maps, *magnitudes], -3).astype(np.float32, copy=False)


def new_scale(channels: Sequence[str], *, units: str, style: Style = "auto") -> Scale:
    """An empty scale for a method's maps, as `picture` makes one for each map without it."""
    kind = kind_of(channels, units)
    darkens = kind == "displacement" or (kind == "color" and style in ("auto", "wheel", "overlay"))
    return Scale(
        least=STILL_PIXELS if units == "px" else 0.0,
        headroom=HEADROOM if darkens else 1.0,
    )


def picture(
    maps: Values,
    channels: Sequence[str],
    *,
    units: str,
    style: Style = "auto",
    scale: Scale | float | None = None,
    frame: Values | None = None,
) -> Picture:
    """Draw what the first of `parts` holds; for another give its maps and channels alone.

    Args:
        maps: of one window, or of many
        channels: the names of the maps' channels, as a method or a shard has them
        units: likewise; two channels in ``px`` are a displacement
        style: one of `STYLES`, or ``auto``: displacement and colors by the wheel, change as heat,
            confidence as gray
        scale: of a clip, filled with what `measure` gives, or the magnitude of full color; without
            it each picture has its own, and a clip flickers
        frame: the frame under it, which ``overlay`` needs. Maps are enlarged to its size, each
            cell to a square

    Shape:
        - maps: ``(..., C, H, W)``
        - frame: as `frame_to_rgb` takes it
        - output: ``(..., H, W, 3)`` uint8, of the frame's size if there is one
    """
    array = to_floats(maps)
    _check_channels(array, channels)
    kind = kind_of(channels, units)
    chosen = choose_style(kind, style)
    first_part = parts(channels, units=units, style=chosen)[0]
    array, frame_picture = array[..., first_part, :, :], None
    if frame is not None:
        frame_picture = frame_to_rgb(frame)
        array = enlarge_cells(array, *frame_picture.shape[:2])
    bound = resolve_bound(scale)
    if chosen == "overlay" and frame_picture is None:
        raise UsageError("style overlay needs the frame that the maps belong to")
    names = channels[first_part]

    def draw_single_map(single_map: NDArray[np.floating]) -> Picture:
        own_scale = new_scale(names, units=units, style=chosen)
        if bound is None:
            own_scale.add(measure(single_map, names, units=units, style=chosen))
        full_value = own_scale.bound if bound is None else bound
        if chosen == "overlay" and frame_picture is not None:
            return _lay_over_frame(frame_picture, single_map, kind, full_value)
        return (
            quiver(frame_picture, single_map, max_flow=full_value)
            if chosen == "quiver"
            else _draw_style(single_map, kind, chosen, full_value)
        )

    return draw_each(draw_single_map, array, axes=3)


def choose_style(kind: MapKind, style: Style = "auto") -> Style:
    """The style that is meant, or an error that names those that fit."""
    if style == "auto":
        return STYLES[kind][0]
    if style not in typing.get_args(Style):
        raise UsageError(f"style={style}: choose from {', '.join(typing.get_args(Style))}")
    if style not in STYLES[kind]:
        raise UsageError(
            f"style={style} does not fit {kind}: choose from {_list_styles(STYLES[kind])}"
        )
    return style


def legend(
    channels: Sequence[str], *, units: str, style: Style = "auto", scale: Scale | float
) -> Picture:
    """What the colors of `picture` mean at this scale: a wheel, a bar or an arrow, on white."""
    kind, bound = kind_of(channels, units), resolve_bound(scale) or 1.0
    chosen = choose_style(kind, style)
    if chosen == "overlay":
        chosen = STYLES[kind][0]
    if kind == "confidence":
        return bar_legend(0, 1, kind="gray")
    if chosen in ("wheel", "hsv"):
        if kind == "displacement":
            return wheel_legend(bound, units=units, black=chosen == "hsv")
        return bar_legend(0, bound, kind="hue", units=units)
    if chosen == "quiver":
        return arrow_legend(bound, units=units)
    if chosen == "signed":
        return bar_legend(-bound, bound, kind="signed", units=units)
    return bar_legend(0, bound, units=units)


def _check_channels(maps: NDArray[Any], channels: Sequence[str]) -> None:
    if maps.ndim < 3 or maps.shape[-3] != len(channels) or not channels:
        raise ShapeError(f"maps are (..., C, H, W) with C channels {channels}, got {maps.shape}")


def _draw_style(maps: NDArray[np.floating], kind: MapKind, style: Style, bound: float) -> Picture:
    match kind, style:
        case "confidence", _:
            return confidence_to_rgb(maps[..., 0, :, :])
        case _, "magnitude":
            return heat_to_rgb(magnitude(maps), high=bound)
        case _, "signed":
            return signed_to_rgb(maps, bound=bound)
        case "color", _:
            return hue_to_rgb(maps, bound=bound)
        case _, "hsv":
            return flow_to_hsv(maps, max_flow=bound)
        case _:
            return flow_to_rgb(maps, max_flow=bound)


def _lay_over_frame(
    frame_picture: Picture, maps: NDArray[np.floating], kind: MapKind, bound: float
) -> Picture:
    """Lay one picture over its frame, the more visibly the stronger the motion."""
    norm = magnitude(maps)
    share = np.where(is_known(norm), np.minimum(np.sqrt(norm / bound), 1), 1)
    return overlay(
        frame_picture, _draw_style(maps, kind, STYLES[kind][0], bound), _OVERLAY_SHARE * share
    )


def _list_styles(styles: Sequence[str]) -> str:
    return ", ".join(("auto", *styles))
