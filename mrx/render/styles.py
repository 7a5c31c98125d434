"""Draw the maps of any method, in a style chosen by the channel names and the units."""

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
"""The styles that fit each kind of maps; the first is the meaning of ``auto``."""

_COLOR_CHANNELS = ("red", "green", "blue")
# Opacity of the strongest motion in an overlay
_OVERLAY_SHARE = 0.75


def kind_of(channels: Sequence[str], units: str) -> MapKind:
    """Return the kind of the first maps.

    - ``displacement``: two channels in pixels
    - ``color``: signed red, green and blue
    - ``confidence``: one channel of that name, in 0..1
    - ``change``: one channel of anything else

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
    """Split channels into groups that are drawn as one picture each, in order.

    Displacements are drawn in pairs, or one component at a time in style ``signed``. Three color
    channels make one picture. Every other channel makes its own.

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
    """Return the magnitudes of maps, to be added to a `Scale` for every map of a clip.

    Displacements and colors give their norm, other channels their absolute value. Colors in style
    ``signed`` give the absolute value of each channel. Confidence is left out: its scale is always
    0..1.

    Shape:
        - maps: ``(..., C, H, W)``
        - output: ``(..., P, H, W)`` with P measured parts
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
    # Maps of confidence alone have nothing to concatenate; this gives them P = 0.
    no_maps = np.empty((*leading, 0, *size), np.float32)
    return np.concatenate([no_maps, *magnitudes], -3).astype(np.float32, copy=False)


def new_scale(channels: Sequence[str], *, units: str, style: Style = "auto") -> Scale:
    """Return an empty scale with the settings that `picture` uses for these maps and style."""
    kind = kind_of(channels, units)
    # Colors of the wheel darken beyond the bound, so their bound gets headroom.
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
    """Draw the first of the `parts` of maps; to draw another part, pass only its channels.

    Args:
        maps: maps of one window or of several
        channels: channel names, as given by a method or a shard
        units: units, as given by a method or a shard; two channels in ``px`` are a displacement
        style: one of `STYLES`, or ``auto``: displacement and colors by the wheel, change as heat,
            confidence as gray
        scale: scale of the clip, filled from `measure`, or the magnitude of full color; by default
            each picture has its own scale, and a clip flickers
        frame: background, required by ``overlay``. Maps are enlarged to its size, each cell to a
            square

    Shape:
        - maps: ``(..., C, H, W)``
        - frame: any shape that `frame_to_rgb` takes
        - output: ``(..., H, W, 3)`` uint8, of the frame's size if one is given
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
        raise UsageError("style=overlay: needs the frame of the maps. Pass frame")
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
    """Resolve ``auto`` and return the style; raise UsageError if it does not fit the kind."""
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
    """Draw the legend of `picture` at this scale: a wheel, a bar or an arrow on white."""
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
        raise ShapeError(
            f"maps must be (..., C, H, W) with C channels {channels}, got {maps.shape}"
        )


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
    """Draw a map over its frame; stronger motion is more opaque."""
    norm = magnitude(maps)
    # The square root makes weak motion visible. Unknown motion is as opaque as the strongest.
    share = np.where(is_known(norm), np.minimum(np.sqrt(norm / bound), 1), 1)
    return overlay(
        frame_picture, _draw_style(maps, kind, STYLES[kind][0], bound), _OVERLAY_SHARE * share
    )


def _list_styles(styles: Sequence[str]) -> str:
    return ", ".join(("auto", *styles))
